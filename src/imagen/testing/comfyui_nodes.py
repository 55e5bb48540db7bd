"""The node classes that the fake ComfyUI knows, one line each, and what `/object_info` tells of them.

A line is `name:KIND …  > KIND …`, inputs before `>` and outputs after it:

    seed:SEED              a whole number from 0 to 2**64 - 1
    steps:INT=20,1,10000   default, smallest, largest; FLOAT likewise
    text:STRING*           text of several lines; STRING=abc has a default
    vae_name:@vae          a file of that folder
    type:flux|sd3|sdxl     one of these words
    device?:default|cpu    the question mark: it may be left out
    model:MODEL            anything else comes by a link
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

# What a node does when it runs, as far as anybody outside can tell.
Does = Literal["load", "encode", "sample", "decode", "save", "show", "stream", "work"]

MAX_SEED = 2**64 - 1
SAMPLERS = (
    *("euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0"),
    *("exp_heun_2_x0_sde", "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral"),
    *("dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde"),
    *("dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu"),
    *("ddpm", "lcm", "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp"),
    *("res_multistep_ancestral", "res_multistep_ancestral_cfg_pp", "gradient_estimation"),
    *("gradient_estimation_cfg_pp", "er_sde", "seeds_2", "seeds_3", "sa_solver", "sa_solver_pece", "ddim"),
    *("uni_pc", "uni_pc_bh2"),
)
SCHEDULERS = (
    *("simple", "sgm_uniform", "karras", "exponential", "ddim_uniform"),
    *("beta", "normal", "linear_quadratic", "kl_optimal"),
)

# The files of the workflows that imagen ships, as a server has them on which all of them run.
FILES: Mapping[str, tuple[str, ...]] = {
    "checkpoints": (
        "flux1-schnell-fp8.safetensors",
        "hidream_o1_image_dev_fp8_scaled.safetensors",
        "sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors",
    ),
    "configs": (),
    "loras": (),
    "vae": ("ae.safetensors", "flux2-vae.safetensors", "qwen_image_vae.safetensors"),
    "text_encoders": (
        "clip_l.safetensors",
        "qwen_2.5_vl_7b_fp8_scaled.safetensors",
        "qwen_3_4b.safetensors",
        "t5xxl_fp8_e4m3fn_scaled.safetensors",
    ),
    "diffusion_models": (
        "flux-2-klein-4b.safetensors",
        "flux-2-klein-base-4b.safetensors",
        "flux1-schnell.safetensors",
        "qwen_image_fp8_e4m3fn.safetensors",
        "z_image_turbo_bf16.safetensors",
    ),
    "clip_vision": (),
    "style_models": (),
    "embeddings": (),
    "vae_approx": (),
    "controlnet": (),
    "upscale_models": (),
}

_TABLE = """
[nodes]
CheckpointLoaderSimple ckpt_name:@checkpoints > MODEL CLIP VAE
UNETLoader unet_name:@diffusion_models weight_dtype:default|fp8_e4m3fn|fp8_e4m3fn_fast|fp8_e5m2 > MODEL
CLIPLoader clip_name:@text_encoders type:stable_diffusion|sd3|flux2|lumina2|qwen_image|wan|hidream|chroma|omnigen2 \
device?:default|cpu > CLIP
DualCLIPLoader clip_name1:@text_encoders clip_name2:@text_encoders type:sdxl|sd3|flux|hunyuan_video|hidream \
device?:default|cpu > CLIP
VAELoader vae_name:@vae > VAE
LoraLoader model:MODEL clip:CLIP lora_name:@loras strength_model:FLOAT=1,-100,100 strength_clip:FLOAT=1,-100,100 \
> MODEL CLIP
LoraLoaderModelOnly model:MODEL lora_name:@loras strength_model:FLOAT=1,-100,100 > MODEL
ControlNetLoader control_net_name:@controlnet > CONTROL_NET
CLIPSetLastLayer clip:CLIP stop_at_clip_layer:INT=-1,-24,-1 > CLIP
CLIPTextEncode text:STRING* clip:CLIP > CONDITIONING
ConditioningZeroOut conditioning:CONDITIONING > CONDITIONING
ConditioningCombine conditioning_1:CONDITIONING conditioning_2:CONDITIONING > CONDITIONING
ConditioningConcat conditioning_to:CONDITIONING conditioning_from:CONDITIONING > CONDITIONING
ConditioningSetTimestepRange conditioning:CONDITIONING start:FLOAT=0,0,1 end:FLOAT=1,0,1 > CONDITIONING
EmptyLatentImage width:INT=512,16,16384 height:INT=512,16,16384 batch_size:INT=1,1,4096 > LATENT
LatentUpscale samples:LATENT upscale_method:nearest-exact|bilinear|area|bicubic width:INT=512,0,16384 \
height:INT=512,0,16384 crop:disabled|center > LATENT
LatentUpscaleBy samples:LATENT upscale_method:nearest-exact|bilinear|area|bicubic scale_by:FLOAT=1.5,0.01,8 > LATENT
KSampler model:MODEL seed:SEED steps:INT=20,1,10000 cfg:FLOAT=8,0,100 sampler_name:@samplers scheduler:@schedulers \
positive:CONDITIONING negative:CONDITIONING latent_image:LATENT denoise:FLOAT=1,0,1 > LATENT
KSamplerAdvanced model:MODEL add_noise:enable|disable noise_seed:SEED steps:INT=20,1,10000 cfg:FLOAT=8,0,100 \
sampler_name:@samplers scheduler:@schedulers positive:CONDITIONING negative:CONDITIONING latent_image:LATENT \
start_at_step:INT=0,0,10000 end_at_step:INT=10000,0,10000 return_with_leftover_noise:disable|enable > LATENT
VAEDecode samples:LATENT vae:VAE > IMAGE
VAEDecodeTiled samples:LATENT vae:VAE tile_size:INT=512,64,4096 overlap:INT=64,0,4096 temporal_size:INT=64,8,4096 \
temporal_overlap:INT=8,4,4096 > IMAGE
VAEEncode pixels:IMAGE vae:VAE > LATENT
LoadImage image:@input > IMAGE MASK
ImageScale image:IMAGE upscale_method:nearest-exact|bilinear|area|bicubic|lanczos width:INT=512,0,16384 \
height:INT=512,0,16384 crop:disabled|center > IMAGE
ImageScaleBy image:IMAGE upscale_method:nearest-exact|bilinear|area|bicubic|lanczos scale_by:FLOAT=1,0.01,8 > IMAGE
SaveImage images:IMAGE filename_prefix:STRING=ComfyUI > IMAGE
PreviewImage images:IMAGE > IMAGE
[custom_nodes.websocket_image_save]
SaveImageWebsocket images:IMAGE >
[comfy_extras.nodes_model_advanced]
ModelSamplingSD3 model:MODEL shift:FLOAT=3,0,100 > MODEL
ModelSamplingAuraFlow model:MODEL shift:FLOAT=1.73,0,100 > MODEL
ModelSamplingFlux model:MODEL max_shift:FLOAT=1.15,0,100 base_shift:FLOAT=0.5,0,100 width:INT=1024,16,16384 \
height:INT=1024,16,16384 > MODEL
RescaleCFG model:MODEL multiplier:FLOAT=0.7,0,1 > MODEL
[comfy_extras.nodes_sd3]
EmptySD3LatentImage width:INT=1024,16,16384 height:INT=1024,16,16384 batch_size:INT=1,1,4096 > LATENT
TripleCLIPLoader clip_name1:@text_encoders clip_name2:@text_encoders clip_name3:@text_encoders > CLIP
CLIPTextEncodeSD3 clip:CLIP clip_l:STRING* clip_g:STRING* t5xxl:STRING* empty_padding:none|empty_prompt > CONDITIONING
SkipLayerGuidanceSD3 model:MODEL layers:STRING=7,8,9 scale:FLOAT=3,0,10 start_percent:FLOAT=0.01,0,1 \
end_percent:FLOAT=0.15,0,1 > MODEL
[comfy_extras.nodes_flux]
CLIPTextEncodeFlux clip:CLIP clip_l:STRING* t5xxl:STRING* guidance:FLOAT=3.5,0,100 > CONDITIONING
FluxGuidance conditioning:CONDITIONING guidance:FLOAT=3.5,0,100 > CONDITIONING
[comfy_extras.nodes_flux since 0.3.72]
EmptyFlux2LatentImage width:INT=1024,16,16384 height:INT=1024,16,16384 batch_size:INT=1,1,4096 > LATENT
Flux2Scheduler steps:INT=20,1,4096 width:INT=1024,16,16384 height:INT=1024,16,16384 > SIGMAS
[comfy_extras.nodes_custom_sampler]
BasicGuider model:MODEL conditioning:CONDITIONING > GUIDER
CFGGuider model:MODEL positive:CONDITIONING negative:CONDITIONING cfg:FLOAT=8,0,100 > GUIDER
BasicScheduler model:MODEL scheduler:@schedulers steps:INT=20,1,10000 denoise:FLOAT=1,0,1 > SIGMAS
KarrasScheduler steps:INT=20,1,10000 sigma_max:FLOAT=14.614642,0,5000 sigma_min:FLOAT=0.0291675,0,5000 \
rho:FLOAT=7,0,100 > SIGMAS
SplitSigmas sigmas:SIGMAS step:INT=0,0,10000 > SIGMAS SIGMAS
ManualSigmas sigmas:STRING=1,0.5 > SIGMAS
KSamplerSelect sampler_name:@samplers > SAMPLER
SamplerEulerAncestral eta:FLOAT=1,0,100 s_noise:FLOAT=1,0,100 > SAMPLER
RandomNoise noise_seed:SEED > NOISE
DisableNoise > NOISE
SamplerCustom model:MODEL add_noise:BOOLEAN=true noise_seed:SEED cfg:FLOAT=8,0,100 positive:CONDITIONING \
negative:CONDITIONING sampler:SAMPLER sigmas:SIGMAS latent_image:LATENT > LATENT LATENT
SamplerCustomAdvanced noise:NOISE guider:GUIDER sampler:SAMPLER sigmas:SIGMAS latent_image:LATENT > LATENT LATENT
[comfy_extras.nodes_hidream_o1 since 0.21.1]
EmptyHiDreamO1LatentImage width:INT=2048,64,4096 height:INT=2048,64,4096 batch_size:INT=1,1,64 > LATENT
ModelNoiseScale model:MODEL noise_scale:FLOAT=1,0,64 > MODEL
SamplerLCM s_noise:FLOAT=1,0,64 s_noise_end:FLOAT=1,0,64 noise_clip_std:FLOAT=0,0,10 > SAMPLER
[comfy_extras.nodes_primitive]
PrimitiveInt value:INT=0,-9223372036854775807,9223372036854775807 > INT
PrimitiveFloat value:FLOAT=0,-9223372036854775807,9223372036854775807 > FLOAT
PrimitiveString value:STRING > STRING
PrimitiveStringMultiline value:STRING* > STRING
PrimitiveBoolean value:BOOLEAN > BOOLEAN
"""

_SAMPLING = {"KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced"}
_OUTPUTS: Mapping[str, Does] = {"SaveImage": "save", "PreviewImage": "show", "SaveImageWebsocket": "stream"}
_WEIGHTS = {"MODEL", "CLIP", "VAE", "CONTROL_NET"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One input of a node class."""

    name: str
    kind: str  # INT FLOAT STRING BOOLEAN COMBO, or what a link carries
    required: bool = True
    folder: str = ""  # the choices are this folder's files
    choices: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)  # default, min, max, multiline, …

    def config(self, files: Mapping[str, Sequence[str]], *, new: bool) -> list[Any]:
        """As `/object_info` and the messages of a refused prompt spell it."""
        if self.kind != "COMBO":
            return [self.kind, dict(self.options)]
        choices = list(files.get(self.folder, ())) if self.folder else list(self.choices)
        if new:
            return ["COMBO", {**self.options, "multiselect": False, "options": choices}]
        return [choices, dict(self.options)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node class; `Node.of("image:IMAGE strength:FLOAT=1,0,2 > IMAGE")` makes one."""

    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    does: Does = "work"
    module: str = "nodes"
    since: str = "0"

    @classmethod
    def of(cls, line: str, *, does: Does | None = None, module: str = "custom_nodes.more", since: str = "0") -> "Node":
        """Read a line of the table; what it does is guessed from what goes in and out, unless said."""
        before, _, after = line.partition(">")
        inputs = tuple(_input(word) for word in before.split())
        outputs = tuple(after.split())
        return cls(inputs=inputs, outputs=outputs, does=does or _guess(inputs, outputs), module=module, since=since)

    @property
    def output_node(self) -> bool:
        """Whether a prompt may end here."""
        return self.does in ("save", "show", "stream")

    @property
    def new_spelling(self) -> bool:
        """Whether choices are told as `["COMBO", {"options": […]}]`."""
        return self.module.startswith("comfy_extras.") and not self.module.endswith("_model_advanced")

    def input(self, name: str) -> Input | None:
        """The input of that name, if this class has one."""
        return next((one for one in self.inputs if one.name == name), None)

    def info(self, name: str, files: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """What `/object_info` says."""
        told: dict[str, dict[str, Any]] = {}
        for one in self.inputs:
            section = "required" if one.required else "optional"
            told.setdefault(section, {})[one.name] = one.config(files, new=self.new_spelling)
        told.setdefault("required", {})
        return {
            "input": told,
            "input_order": {section: list(names) for section, names in told.items()},
            "is_input_list": False,
            "output": list(self.outputs),
            "output_is_list": [False] * len(self.outputs),
            "output_name": list(self.outputs),
            "name": name,
            "display_name": None if self.new_spelling else name,
            "description": "",
            "python_module": self.module,
            "category": "fake",
            "output_node": self.output_node,
        }


def _input(word: str) -> Input:
    name, _, kind = word.partition(":")
    required = not name.endswith("?")
    kind, _, values = kind.partition("=")
    one = Input(name=name.rstrip("?"), kind=kind, required=required)
    match kind:
        case "SEED":
            options = {"default": 0, "min": 0, "max": MAX_SEED, "control_after_generate": True}
            return replace(one, kind="INT", options=options)
        case "INT" | "FLOAT":
            number = int if kind == "INT" else float
            return replace(
                one, options=dict(zip(("default", "min", "max"), map(number, values.split(",")), strict=True))
            )
        case "STRING*":
            return replace(one, kind="STRING", options={"multiline": True})
        case "STRING":
            return replace(one, options={"default": values} if values else {})
        case "BOOLEAN":
            return replace(one, options={"default": values == "true"})
        case "@samplers" | "@schedulers":
            return replace(one, kind="COMBO", choices=SAMPLERS if kind == "@samplers" else SCHEDULERS)
        case _ if kind.startswith("@"):
            return replace(one, kind="COMBO", folder=kind.removeprefix("@"))
        case _ if "|" in kind:
            return replace(one, kind="COMBO", choices=tuple(kind.split("|")))
        case _:
            return one


def _guess(inputs: Sequence[Input], outputs: Sequence[str]) -> Does:
    taken = {one.kind for one in inputs}
    if _WEIGHTS & set(outputs) and any(one.folder for one in inputs):
        return "load"
    if "CONDITIONING" in outputs and "CLIP" in taken:
        return "encode"
    if "IMAGE" in outputs and "LATENT" in taken:
        return "decode"
    return "work"


def _table(text: str) -> dict[str, Node]:
    found: dict[str, Node] = {}
    module, since = "nodes", "0"
    for line in filter(None, text.replace("\\\n", "").splitlines()):
        if line.startswith("["):
            module, _, since = line.strip("[]").partition(" since ")
            continue
        name, _, rest = line.partition(" ")
        does: Does | None = "sample" if name in _SAMPLING else _OUTPUTS.get(name)
        found[name] = Node.of(rest, does=does, module=module, since=since or "0")
    return found


NODES: Mapping[str, Node] = _table(_TABLE)
