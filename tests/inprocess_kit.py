"""Tiny pipelines of real diffusers classes with random weights: a megabyte each, drawn with in a tenth of a second.

The weights mean nothing, and everything else is as with a large model: text encoders, packing, schedulers, decoders.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

FAMILIES = ("flux", "klein", "sd3", "z-image", "qwen")

# As the bundled models have them, where that matters to what is tested.
KEYS: dict[str, dict[str, Any]] = {
    "flux": {"defaults": {"guidance": 0.0, "steps": 4}, "ignores": ["negative", "guidance"]},
    "klein": {
        "defaults": {"guidance": 1.0, "steps": 4},
        "ignores": ["negative", "guidance"],
        "arguments": {"text_encoder_out_layers": [1, 2, 3]},  # of an encoder with no more layers than these
    },
    "sd3": {"defaults": {"guidance": 4.5, "steps": 6}},
    "z-image": {"defaults": {"guidance": 0.0, "steps": 4}, "ignores": ["negative", "guidance"]},
    "qwen": {"defaults": {"guidance": 4.0, "steps": 6}},
}

SIZE = 64  # pixels; four tokens a side for those that pack their latents
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = ["a red fox sits on a white bench in the snow", "the quick brown dog jumps over the lazy cat", "0123456789"]


@cache
def tiny(family: str) -> Path:
    """The folder of such a pipeline; made once for each process that tests."""
    import torch

    folder = _place() / family
    torch.manual_seed(7)
    pipeline = _MAKERS[family]()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    return folder


def model(folder: Path, family: str, name: str = "", **keys: Any) -> str:
    """Write NAME/model.yaml below `folder` for such a pipeline, with some keys changed; gives back its name."""
    name = name or f"tiny-{family}"
    told: dict[str, Any] = {
        "backend": "diffusers",
        "weights": str(tiny(family)),
        "runs_on": "cpu",
        "limits": {"min": 32, "max": 512, "multiple_of": 16, "steps": [1, 100]},
        **KEYS[family],
    }
    told["defaults"] = {"width": SIZE, "height": SIZE, **told["defaults"], **keys.pop("defaults", {})}
    told |= keys
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "model.yaml").write_text(json.dumps(told))  # JSON is YAML
    return name


def lora(family: str, path: Path, *, strength: float = 1.0) -> Path:
    """A LoRA file that changes the attention of the transformer of such a pipeline."""
    import torch
    from diffusers import DiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = DiffusionPipeline.from_pretrained(tiny(family), local_files_only=True)
    transformer = pipeline.transformer
    torch.manual_seed(11)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)
    transformer.add_adapter(config)
    layers = {name: strength * value for name, value in get_peft_model_state_dict(transformer).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    pipeline.save_lora_weights(path.parent, transformer_lora_layers=layers, weight_name=path.name)
    return path


def gguf(family: str, path: Path) -> Path:
    """The transformer of such a pipeline in a GGUF file: in 8 bits where a row fits its blocks, else as it is."""
    import gguf as library
    import numpy as np
    from safetensors.numpy import load_file

    (weights,) = (tiny(family) / "transformer").glob("*.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = library.GGUFWriter(path, arch=family)
    for name, value in load_file(weights).items():
        matrix = value.ndim == 2 and value.shape[-1] % 32 == 0
        if matrix and not any(word in name for word in ("norm", "embed", "token")):
            kind = library.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, library.quantize(value.astype(np.float32), kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, value.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def hub_cache(folder: Path, repository: str, source: Path) -> Path:
    """A cache of the hub that holds one repository, as its library lays them out."""
    snapshot = folder / f"models--{repository.replace('/', '--')}" / "snapshots" / ("0" * 40)
    shutil.copytree(source, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    return snapshot


@cache
def _place() -> Path:
    import atexit

    place = Path(tempfile.mkdtemp(prefix="imagen-tiny-"))
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(place, ignore_errors=True)

    atexit.register(remove)
    return place


@cache
def _tokenizer() -> Any:
    """Byte-level, a few hundred pieces; it serves as CLIP's, T5's and Qwen's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    special = ["<pad>", "<|im_start|>", "<|im_end|>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bare.train_from_iterator(WORDS, trainer)
    bare.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 3), ("</s>", 4)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=bare, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<pad>",
        model_max_length=77,
    )  # fmt: skip
    made.chat_template = CHAT
    return made


def _clip(width: int, *, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=300, hidden_size=width, intermediate_size=2 * width, projection_dim=width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, bos_token_id=3, eos_token_id=4, pad_token_id=0,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _t5(width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=300, d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=2, pad_token_id=0,
        eos_token_id=4,
    )  # fmt: skip
    return T5EncoderModel(config).eval()


def _qwen3(layers: int, width: int = 32) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=300, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=1024, pad_token_id=0,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).eval()


def _vae(scaling: float, shift: float) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, latent_channels=16, norm_num_groups=4,
        scaling_factor=scaling, shift_factor=shift, use_quant_conv=False, use_post_quant_conv=False, sample_size=SIZE,
    ).eval()  # fmt: skip


def _scheduler(**config: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**config)


def _flux() -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    return FluxPipeline(
        scheduler=_scheduler(shift=1.0),
        vae=_vae(0.3611, 0.1159),
        text_encoder=_clip(32),
        tokenizer=_tokenizer(),
        text_encoder_2=_t5(32),
        tokenizer_2=_tokenizer(),
        transformer=FluxTransformer2DModel(
            in_channels=64, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, pooled_projection_dim=32, guidance_embeds=False, axes_dims_rope=(4, 6, 6),
        ).eval(),
    )  # fmt: skip


def _klein() -> Any:
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel

    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16, 16), layers_per_block=1, latent_channels=32, norm_num_groups=4, sample_size=SIZE
    ).eval()
    return Flux2KleinPipeline(
        scheduler=_scheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=_qwen3(3),
        tokenizer=_tokenizer(),
        transformer=Flux2Transformer2DModel(
            in_channels=128, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=96, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
        ).eval(),
        is_distilled=True,
    )  # fmt: skip


def _sd3() -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(
        scheduler=_scheduler(shift=3.0),
        vae=_vae(1.5305, 0.0609),
        text_encoder=_clip(32, projected=True),
        tokenizer=_tokenizer(),
        text_encoder_2=_clip(32, projected=True),
        tokenizer_2=_tokenizer(),
        text_encoder_3=_t5(64),
        tokenizer_3=_tokenizer(),
        transformer=SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64,
            pos_embed_max_size=32,
        ).eval(),
    )  # fmt: skip


def _z_image() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    return ZImagePipeline(
        scheduler=_scheduler(shift=3.0),
        vae=_vae(0.3611, 0.1159),
        text_encoder=_qwen3(3),
        tokenizer=_tokenizer(),
        transformer=ZImageTransformer2DModel(
            in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32,
            axes_dims=[4, 6, 6], axes_lens=[1024, 64, 64],
        ).eval(),
    )  # fmt: skip


def _qwen() -> Any:
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096, "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, vision_start_token_id=1, vision_end_token_id=2)
    return QwenImagePipeline(
        scheduler=_scheduler(use_dynamic_shifting=True),
        vae=AutoencoderKLQwenImage(base_dim=8, num_res_blocks=1, dim_mult=[1, 2, 2, 2]).eval(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
        tokenizer=_tokenizer(),
        transformer=QwenImageTransformer2DModel(
            in_channels=64, out_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
        ).eval(),
    )  # fmt: skip


_MAKERS: dict[str, Callable[[], Any]] = {
    "flux": _flux,
    "klein": _klein,
    "sd3": _sd3,
    "z-image": _z_image,
    "qwen": _qwen,
}
