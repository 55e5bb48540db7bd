"""Published maps from latents to colours: one line of three numbers for each channel of the latents.

All of them come from the file latent-preview.h of stable-diffusion.cpp (MIT), which has the one named `sd3` from
Stability AI's sd3.5 (MIT); see NOTICE. Where a model's decoder is none of these, a map is fitted: `fitting.py`.
"""

from collections.abc import Mapping
from typing import Any

from imagen.previews.latents import Factors

# FLUX.1, Z-Image, Chroma and HiDream-I1: they share one decoder.
FLUX = Factors(
    source="published with stable-diffusion.cpp",
    bias=(0.0246, -0.006937, -0.008089),
    rows=(
        (-0.041168, 0.019917, 0.097253),
        (0.028096, 0.02673, 0.129576),
        (0.065618, -0.06795, -0.014651),
        (-0.012998, -0.014762, 0.081251),
        (0.078567, 0.059296, -0.024687),
        (-0.015987, -0.003697, 0.005012),
        (0.033605, 0.138999, 0.068517),
        (-0.02445, -0.063567, -0.030101),
        (-0.040194, -0.01671, 0.127185),
        (0.112681, 0.088764, -0.04194),
        (-0.023498, 0.093664, 0.025543),
        (0.082899, 0.04832, 0.007491),
        (0.075712, 0.074139, 0.081965),
        (-0.143501, 0.018263, -0.136138),
        (-0.025767, -0.082035, -0.040023),
        (-0.111849, -0.055589, -0.032361),
    ),
)

# FLUX.2, all sizes; of latents before their batch norm is undone.
FLUX2 = Factors(
    source="published with stable-diffusion.cpp",
    bias=(-0.028738, -0.098463, -0.107619),
    rows=(
        (0.000736, -0.008385, -0.01971),
        (-0.001352, -0.016392, 0.020693),
        (-0.006376, 0.002428, 0.036736),
        (0.039384, 0.074167, 0.119789),
        (0.007464, -0.005705, -0.004734),
        (-0.004086, 0.005287, -0.000409),
        (-0.032835, 0.050802, -0.02812),
        (-0.003158, -0.000835, 0.000406),
        (-0.11284, -0.084337, -0.023083),
        (0.001462, -0.006656, 0.000549),
        (-0.00998, -0.00748, 0.009702),
        (0.03254, 0.000214, -0.061388),
        (0.011023, 0.000694, 0.007143),
        (-0.001468, -0.006723, -0.001678),
        (-0.005921, -0.01032, -0.003907),
        (-0.028434, 0.027584, 0.018457),
        (0.014349, 0.011523, 0.000441),
        (0.009874, 0.003081, 0.001507),
        (0.002218, 0.005712, 0.001563),
        (0.05301, -0.019844, 0.008683),
        (-0.002507, 0.005384, 0.000938),
        (-0.002177, -0.011366, 0.003559),
        (-0.000261, 0.015121, -0.00324),
        (-0.003944, -0.002083, 0.005043),
        (-0.009138, 0.011336, 0.003781),
        (0.011429, 0.003985, -0.003855),
        (0.010518, -0.005586, 0.010131),
        (0.007883, 0.002912, -0.001473),
        (-0.003318, -0.00316, 0.003684),
        (-0.03456, -0.00874, 0.012996),
        (0.000166, 0.001079, -0.012153),
        (0.017772, 0.000937, -0.011953),
    ),
)

# Stable Diffusion 3 and 3.5.
SD3 = Factors(
    source="published by Stability AI",
    bias=(0.0, 0.0, 0.0),
    rows=(
        (-0.0645, 0.0177, 0.1052),
        (0.0028, 0.0312, 0.065),
        (0.1848, 0.0762, 0.036),
        (0.0944, 0.036, 0.0889),
        (0.0897, 0.0506, -0.0364),
        (-0.002, 0.1203, 0.0284),
        (0.0855, 0.0118, 0.0283),
        (-0.0539, 0.0658, 0.1047),
        (-0.0057, 0.0116, 0.07),
        (-0.0412, 0.0281, -0.0039),
        (0.1106, 0.1171, 0.122),
        (-0.0248, 0.0682, -0.0481),
        (0.0815, 0.0846, 0.1207),
        (-0.012, -0.0055, -0.0867),
        (-0.0749, -0.0634, -0.0456),
        (-0.1418, -0.1457, -0.1259),
    ),
)

# Wan 2.1 and Qwen-Image; of latents that are still normalised.
WAN21 = Factors(
    source="published with stable-diffusion.cpp",
    bias=(-0.27027, -0.234976, -0.456853),
    rows=(
        (0.015123, -0.148418, 0.479828),
        (0.003652, -0.01068, -0.037142),
        (0.212264, 0.063033, 0.016779),
        (0.232999, 0.406476, 0.220125),
        (-0.051864, -0.082384, -0.069396),
        (0.085005, -0.161492, 0.010689),
        (-0.245369, -0.506846, -0.11701),
        (-0.151145, 0.017721, 0.007207),
        (-0.293239, -0.207936, -0.421135),
        (-0.187721, 0.050783, 0.177649),
        (-0.013067, 0.265964, 0.166578),
        (0.028327, 0.109329, 0.108642),
        (-0.205343, 0.043991, 0.148914),
        (0.014307, -0.048647, -0.007219),
        (0.21715, 0.053074, 0.319923),
        (0.155357, 0.083156, 0.06478),
    ),
)

# A decoder is told by its class in diffusers and its channels, and where two share those by its scale.
_BY_DECODER: dict[tuple[str, int, float | None], Factors] = {
    ("AutoencoderKL", 16, 0.3611): FLUX,
    ("AutoencoderKL", 16, 1.5305): SD3,
    ("AutoencoderKLFlux2", 32, None): FLUX2,
    ("AutoencoderKLQwenImage", 16, None): WAN21,
    ("AutoencoderKLWan", 16, None): WAN21,
}


def published(decoder: str, config: Mapping[str, Any]) -> Factors | None:
    """The map of the decoder of this class of diffusers with this configuration; None where none is known."""
    channels = config.get("latent_channels") or config.get("z_dim") or 0
    scaled = (decoder, channels, config.get("scaling_factor"))
    return _BY_DECODER.get(scaled) or _BY_DECODER.get((decoder, channels, None))
