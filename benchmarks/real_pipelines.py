"""The networks of the five families as large as they are, with random weights: what they cost is known from that.

Sizes are those of the published configurations. Text encoders have one layer, or as many as a pipeline reads, of the
right width.
"""

from collections.abc import Callable
from typing import Any

import tests.inprocess_kit as kit

SHALLOW = 3  # layers: FLUX.2 reads three of them


def built(family: str, device: str) -> Any:
    """The pipeline, in bfloat16, made on the device itself."""
    import torch

    torch.manual_seed(7)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            pipe = _MAKERS[family]()
    finally:
        torch.set_default_dtype(before)
    return pipe.to(device, torch.bfloat16)


def _flux() -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    return FluxPipeline(
        scheduler=kit._scheduler(shift=1.0),
        vae=_vae(0.3611, 0.1159),
        text_encoder=_clip(768, 12),
        tokenizer=kit._tokenizer(),
        text_encoder_2=_t5(),
        tokenizer_2=kit._tokenizer(),
        transformer=FluxTransformer2DModel(guidance_embeds=False).eval(),  # its defaults are FLUX.1's
    )


def _klein() -> Any:
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel

    return Flux2KleinPipeline(
        scheduler=kit._scheduler(use_dynamic_shifting=True),
        vae=AutoencoderKLFlux2().eval(),
        text_encoder=_qwen3(2560, 32),
        tokenizer=kit._tokenizer(),
        transformer=Flux2Transformer2DModel(
            num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=7680, guidance_embeds=False
        ).eval(),
        is_distilled=True,
    )


def _sd3() -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(
        scheduler=kit._scheduler(shift=3.0),
        vae=_vae(1.5305, 0.0609),
        text_encoder=_clip(768, 12, projected=True),
        tokenizer=kit._tokenizer(),
        text_encoder_2=_clip(1280, 20, projected=True),
        tokenizer_2=kit._tokenizer(),
        text_encoder_3=_t5(),
        tokenizer_3=kit._tokenizer(),
        transformer=SD3Transformer2DModel(
            sample_size=128, num_layers=24, attention_head_dim=64, num_attention_heads=24, joint_attention_dim=4096,
            caption_projection_dim=1536, pooled_projection_dim=2048, out_channels=16, pos_embed_max_size=384,
            dual_attention_layers=tuple(range(13)), qk_norm="rms_norm",
        ).eval(),
    )  # fmt: skip


def _z_image() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    return ZImagePipeline(
        scheduler=kit._scheduler(shift=3.0),
        vae=_vae(0.3611, 0.1159),
        text_encoder=_qwen3(2560, 32),
        tokenizer=kit._tokenizer(),
        transformer=ZImageTransformer2DModel().eval(),  # its defaults are the published ones
    )


def _qwen() -> Any:
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": 300, "hidden_size": 3584, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 4096, "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1000000.0},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 3584,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, vision_start_token_id=1, vision_end_token_id=2)
    return QwenImagePipeline(
        scheduler=kit._scheduler(use_dynamic_shifting=True),
        vae=AutoencoderKLQwenImage().eval(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
        tokenizer=kit._tokenizer(),
        transformer=QwenImageTransformer2DModel().eval(),
    )


def _vae(scaling: float, shift: float) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=16, scaling_factor=scaling,
        shift_factor=shift, use_quant_conv=False, use_post_quant_conv=False, sample_size=1024,
    ).eval()  # fmt: skip


def _clip(width: int, heads: int, *, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=300, hidden_size=width, intermediate_size=64, projection_dim=width, num_hidden_layers=2,
        num_attention_heads=heads, max_position_embeddings=77, bos_token_id=3, eos_token_id=4, pad_token_id=0,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=300, d_model=4096, d_kv=64, d_ff=64, num_layers=1, num_heads=64, pad_token_id=0, eos_token_id=4
    )
    return T5EncoderModel(config).eval()


def _qwen3(width: int, heads: int) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=300, hidden_size=width, intermediate_size=64, num_hidden_layers=SHALLOW, num_attention_heads=heads,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=1024, pad_token_id=0,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).eval()


_MAKERS: dict[str, Callable[[], Any]] = {
    "flux": _flux,
    "klein": _klein,
    "sd3": _sd3,
    "z-image": _z_image,
    "qwen": _qwen,
}
