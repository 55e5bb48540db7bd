"""What each kind of server calls the fields of a request, beyond those OpenAI has: data, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imagen.backends.remote.address import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One kind of server. A field of the request that is not named here cannot be asked for."""

    fields: Mapping[str, str] = field(default_factory=dict)  # of the request -> of the server
    response_format: str | None = "b64_json"  # what to ask for; None = may not be said
    in_prompt: str = ""  # the tag inside the prompt that holds the fields as JSON
    negative_bar: bool = False  # the negative prompt stands in the prompt, after a bar
    lists: bool = True  # it has a list of models: what answers without one is something else
    named: bool = True  # … and draws with the one that is named; false: with what it has, whatever it is called
    stream: bool = False  # it sends partial images
    partials_are_free: bool = False  # so that they are asked for even if nobody watches yet
    options: str = ""  # the field that holds a model's own options; left out, they stand beside the others
    ends: Mapping[str, Any] = field(default_factory=dict)  # what to say so that leaving a call ends it
    outlives: Mapping[str, Any] = field(default_factory=dict)  # … so that it goes on, and the same key finds it again
    cancel: str = ""  # how such a call is ended then, by the id it has there
    warns: str = ""  # the header in which it says what it did not do


DIALECTS: Mapping[str, Dialect] = {
    # Refuses fields it does not know, and `response_format` with its present models.
    "openai": Dialect(response_format=None, stream=True),
    "imagen": Dialect(
        fields={"seed": "seed", "steps": "steps", "negative": "negative_prompt", "guidance": "guidance"},
        stream=True,
        partials_are_free=True,
        options="options",
        ends={"on_disconnect": "cancel"},
        outlives={"on_disconnect": "keep"},
        cancel="jobs/{id}/cancel",
        warns="imagen-warning",
    ),
    # docs/serving/image_generation_api.md of vLLM-Omni, August 2026: streams text of language models only.
    "vllm-omni": Dialect(
        fields={
            "seed": "seed",
            "steps": "num_inference_steps",
            "negative": "negative_prompt",
            "guidance": "guidance_scale",
        }
    ),
    # protocol.py of SGLang: a request without a seed gets 1024; with `stream` the picture comes back blank (#24240).
    "sglang": Dialect(
        fields={
            "seed": "seed",
            "steps": "num_inference_steps",
            "negative": "negative_prompt",
            "guidance": "guidance_scale",
        }
    ),
    "localai": Dialect(fields={"seed": "seed", "steps": "step"}, negative_bar=True),
    # stable-diffusion.cpp reads what is its own from a tag inside the prompt (#1658).
    "sd-server": Dialect(
        fields={
            "seed": "seed",
            "steps": "sample_params.sample_steps",
            "negative": "negative_prompt",
            "guidance": "sample_params.guidance.txt_cfg",
        },
        in_prompt="sd_cpp_extra_args",
        named=False,  # its list says `sd-cpp-local`, whatever it has loaded
    ),
    "plain": Dialect(stream=True, lists=False),
}


def dialect_of(named: str | None, address: Address) -> Dialect:
    """As the model says, else OpenAI's own at its own address, else the least that all understand."""
    return DIALECTS[named or ("openai" if address.host == "api.openai.com" else "plain")]
