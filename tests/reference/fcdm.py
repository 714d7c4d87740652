"""The SemDisDiffAE tokenizer once more, in float64 NumPy: one small function per formula, and no torch.

Derived from the published description of `data-archetype/semdisdiffae` (module, tensor and config names, formulas) and
the papers it builds on, and on purpose not from this package's own model code, so that the two can be compared. Clarity
comes before speed: use it at tiny sizes only.

Arrays are NCHW float64. `weights` maps state-dict names to arrays; a function for one layer takes the names below that
layer (`below(weights, "decoder.fuse_in")`). `logsnr` is log(alpha^2/sigma^2); `t` is 0 for clean and 1 for noise.
"""

import math
from collections.abc import Callable, Mapping
from typing import TypedDict

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Weights = Mapping[str, Array]
Shape = tuple[int, ...]

RMS_NORM_EPS = 1e-6
GRN_EPS = 1e-6
TIME_FREQ_DIM = 256
TIME_SCALE = 1000.0
TIME_MAX_PERIOD = 10000.0


class Config(TypedDict):
    """The fields of the published `config.json`, and the two that later releases added."""

    in_channels: int
    patch_size: int
    model_dim: int
    encoder_depth: int
    decoder_depth: int
    decoder_start_blocks: int
    decoder_end_blocks: int
    bottleneck_dim: int
    mlp_ratio: float
    depthwise_kernel_size: int
    adaln_low_rank_rank: int
    bottleneck_posterior_kind: str
    bottleneck_norm_mode: str
    logsnr_min: float
    logsnr_max: float
    pixel_noise_std: float
    bottleneck_patchify_mode: str
    latent_running_stats_eps: float


PUBLISHED_CONFIG: Config = {
    "in_channels": 3,
    "patch_size": 16,
    "model_dim": 896,
    "encoder_depth": 4,
    "decoder_depth": 8,
    "decoder_start_blocks": 2,
    "decoder_end_blocks": 2,
    "bottleneck_dim": 128,
    "mlp_ratio": 4.0,
    "depthwise_kernel_size": 7,
    "adaln_low_rank_rank": 128,
    "bottleneck_posterior_kind": "diagonal_gaussian",
    "bottleneck_norm_mode": "disabled",
    "logsnr_min": -10.0,
    "logsnr_max": 10.0,
    "pixel_noise_std": 0.558,
    "bottleneck_patchify_mode": "off",
    "latent_running_stats_eps": 1e-4,
}


def below(weights: Weights, prefix: str) -> dict[str, Array]:
    """The tensors under `prefix.`, with the prefix taken off."""
    start = prefix + "."
    return {name[len(start) :]: value for name, value in weights.items() if name.startswith(start)}


# --- scalar functions -----------------------------------------------------------------------------------------------


def sigmoid(x: Array) -> Array:
    """1/(1+exp(-x)), by way of its logarithm so that nothing overflows or cancels."""
    return np.exp(-np.logaddexp(0.0, -x))


def silu(x: Array) -> Array:
    """x * sigmoid(x) (Elfwing et al. 2017, arXiv 1702.03118)."""
    return x * sigmoid(x)


def gelu(x: Array) -> Array:
    """The exact GELU, x * Phi(x) with Phi by erf (Hendrycks & Gimpel 2016, arXiv 1606.08415), not the tanh form."""
    erf = np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2.0))
    return np.asarray(0.5 * x * (1.0 + erf), dtype=np.float64)


# --- diffusion ------------------------------------------------------------------------------------------------------


def vp_logsnr(t: Array, logsnr_min: float = -10.0, logsnr_max: float = 10.0) -> Array:
    """Cosine-interpolated log-SNR: -2 ln tan(a t + b), from logsnr_max at t=0 to logsnr_min at t=1.

    The cosine schedule of Simple Diffusion (arXiv 2301.11093) and SiD2 (arXiv 2410.19324), cut off at both ends.
    """
    b = math.atan(math.exp(-0.5 * logsnr_max))
    a = math.atan(math.exp(-0.5 * logsnr_min)) - b
    return -2.0 * np.log(np.tan(a * t + b))


def vp_alpha(logsnr: Array) -> Array:
    """alpha = sqrt(sigmoid(logsnr)) (variance preserving; Kingma et al. 2021, arXiv 2107.00630)."""
    return np.sqrt(sigmoid(logsnr))


def vp_sigma(logsnr: Array) -> Array:
    """sigma = sqrt(sigmoid(-logsnr)), so that alpha^2 + sigma^2 = 1."""
    return np.sqrt(sigmoid(-logsnr))


def add_noise(x0: Array, noise: Array, logsnr: Array) -> Array:
    """The forward process x_t = alpha x0 + sigma noise (Ho et al. 2020, arXiv 2006.11239, eq. 4)."""
    return vp_alpha(logsnr) * x0 + vp_sigma(logsnr) * noise


def implied_noise(x_t: Array, x0_hat: Array, logsnr: Array) -> Array:
    """The noise that turns x0_hat into x_t: eps_hat = (x_t - alpha x0_hat)/sigma."""
    return (x_t - vp_alpha(logsnr) * x0_hat) / vp_sigma(logsnr)


def time_grid(num_steps: int, schedule: str) -> Array:
    """N+1 times for N decoder evaluations, from exactly 1 down to exactly 0: evenly spaced or along a half cosine."""
    steps = np.arange(num_steps + 1) / num_steps
    rising = {"linear": steps, "cosine": 0.5 * (1.0 - np.cos(np.pi * steps))}[schedule]
    return rising[::-1].copy()


def initial_state(noise: Array, logsnr_min: float = -10.0, logsnr_max: float = 10.0) -> Array:
    """x_1 = sigma(1) noise: the forward process at t=1 with its x0 part left out."""
    return vp_sigma(vp_logsnr(np.ones(()), logsnr_min, logsnr_max)) * noise


def ddim_step(x_t: Array, x0_hat: Array, logsnr: Array, logsnr_next: Array) -> Array:
    """x_next = alpha_next x0_hat + sigma_next eps_hat (DDIM, Song et al. 2020, arXiv 2010.02502, eq. 12 at eta=0)."""
    return vp_alpha(logsnr_next) * x0_hat + vp_sigma(logsnr_next) * implied_noise(x_t, x0_hat, logsnr)


def dpmpp_2m_first_step(x_t: Array, x0_hat: Array, logsnr: Array, logsnr_next: Array) -> Array:
    """First order: x_next = (sigma_next/sigma) x - alpha_next expm1(-h) x0_hat, h the step in logsnr/2.

    DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095) of order one: DDIM in another form.
    """
    phi = np.expm1(-0.5 * (logsnr_next - logsnr))
    return vp_sigma(logsnr_next) / vp_sigma(logsnr) * x_t - vp_alpha(logsnr_next) * phi * x0_hat


def dpmpp_2m_later_step(
    x_t: Array, x0_hat: Array, logsnr: Array, logsnr_next: Array, x0_hat_prev: Array, logsnr_prev: Array
) -> Array:
    """Second order, multistep: the first-order step less 0.5 alpha_next expm1(-h) D, D = (x0_hat - x0_hat_prev)/r.

    h is the step in logsnr/2, r the previous step over this one. DPM-Solver++ (arXiv 2211.01095), algorithm 2.
    """
    h = 0.5 * (logsnr_next - logsnr)
    r = 0.5 * (logsnr - logsnr_prev) / h
    slope = (x0_hat - x0_hat_prev) / r
    first_order = dpmpp_2m_first_step(x_t, x0_hat, logsnr, logsnr_next)
    return first_order - 0.5 * vp_alpha(logsnr_next) * np.expm1(-h) * slope


def path_drop_guidance(x0_full: Array, x0_drop: Array, pdg_strength: float) -> Array:
    """x0 = x0_drop + s (x0_full - x0_drop): guidance away from the decoder with its middle blocks dropped.

    Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598) with the path-dropped pass of SPRINT
    (arXiv 2510.21986) in the place of the unconditional one.
    """
    return x0_drop + pdg_strength * (x0_full - x0_drop)


# --- posterior and whitening ----------------------------------------------------------------------------------------


def posterior_mode(mean: Array, logsnr: Array) -> Array:
    """The stored latents: alpha mean, alpha = sqrt(sigmoid(logsnr))."""
    return vp_alpha(logsnr) * mean


def posterior_sample(mean: Array, logsnr: Array, eps: Array) -> Array:
    """The training latents: alpha mean + sigma eps, with a log-SNR of the encoder's own for every element."""
    return vp_alpha(logsnr) * mean + vp_sigma(logsnr) * eps


def whiten(z: Array, mean: Array, var: Array, eps: float) -> Array:
    """(z - mean)/sqrt(var + eps), per channel."""
    return (z - per_channel(mean)) / np.sqrt(per_channel(var) + eps)


def dewhiten(z: Array, mean: Array, var: Array, eps: float) -> Array:
    """z sqrt(var + eps) + mean, per channel: undoes `whiten`."""
    return z * np.sqrt(per_channel(var) + eps) + per_channel(mean)


def per_channel(v: Array) -> Array:
    """[C] or [B,C] -> [..., C,1,1], to meet a [B,C,H,W] array."""
    spread: Array = v[..., None, None]
    return spread


# --- layers ---------------------------------------------------------------------------------------------------------


def linear(x: Array, weights: Weights) -> Array:
    """y = x W^T + b; [B,I] -> [B,O]; the bias may be absent."""
    y: Array = np.einsum("bi,oi->bo", x, weights["weight"])
    return y + weights["bias"] if "bias" in weights else y


def conv_1x1(x: Array, weights: Weights) -> Array:
    """The same linear map at every pixel: [B,I,H,W] -> [B,O,H,W], weight [O,I,1,1]."""
    y: Array = np.einsum("bihw,oi->bohw", x, weights["weight"][:, :, 0, 0])
    return y + per_channel(weights["bias"])


def depthwise_conv(x: Array, weights: Weights) -> Array:
    """One k x k filter per channel (k odd, weight [C,1,k,k]), not flipped; as if zeros surrounded the image."""
    kernel = weights["weight"][:, 0]
    size = kernel.shape[-1]
    height, width = x.shape[-2:]
    margin = size // 2
    padded = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    y = np.zeros_like(x)
    for dy in range(size):
        for dx in range(size):
            y += per_channel(kernel[:, dy, dx]) * padded[:, :, dy : dy + height, dx : dx + width]
    return y + per_channel(weights["bias"])


def channel_wise_rms_norm(x: Array, weights: Weights | None = None) -> Array:
    """x / sqrt(mean over channels of x^2 + eps) at each pixel (RMSNorm, arXiv 1910.07467, eq. 4, over channels)."""
    y: Array = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + RMS_NORM_EPS)
    return y if weights is None else y * per_channel(weights["weight"]) + per_channel(weights["bias"])


def grn(x: Array, weights: Weights) -> Array:
    """Global response normalisation: gamma (x n) + beta + x, n = |x|_hw / (mean over channels of |x|_hw + eps).

    ConvNeXt V2 (arXiv 2301.00808), eq. 1-3 and algorithm 1.
    """
    norm = np.sqrt(np.sum(x**2, axis=(2, 3), keepdims=True))
    n: Array = norm / (np.mean(norm, axis=1, keepdims=True) + GRN_EPS)
    return weights["gamma"] * (x * n) + weights["beta"] + x


def fcdm_block(x: Array, weights: Weights, adaln_m: Array | None = None) -> Array:
    """x + gate * f(x): a ConvNeXt block (FCDM, arXiv 2603.09408) with RMSNorm and GRN.

    In the encoder (`adaln_m` None) the gate is `layer_scale`. In the decoder `adaln_m` [B,2C] holds scale, then gate.
    """
    h = channel_wise_rms_norm(depthwise_conv(x, below(weights, "dwconv")))
    if adaln_m is None:
        gate = weights["layer_scale"]
    else:
        scale, gate = np.split(adaln_m, 2, axis=1)
        h = h * (1.0 + per_channel(scale))
    h = grn(gelu(conv_1x1(h, below(weights, "pwconv1"))), below(weights, "grn"))
    return x + per_channel(gate) * conv_1x1(h, below(weights, "pwconv2"))


def time_frequencies() -> Array:
    """exp(-ln(max_period) i/(half-1)), i = 0..half-1: from 1 down to 1/max_period, both included."""
    half = TIME_FREQ_DIM // 2
    return np.exp(-math.log(TIME_MAX_PERIOD) * np.arange(half) / (half - 1))


def time_features(t: Array, freqs: Array) -> Array:
    """All sines, then all cosines, of 1000 t freqs: [B] -> [B,256] (after arXiv 1706.03762, section 3.5)."""
    angle = TIME_SCALE * t[:, None] * freqs[None, :]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def time_embedding(t: Array, weights: Weights) -> Array:
    """proj_out(SiLU(proj_in(features(t)))): [B] -> [B,C]."""
    h = linear(time_features(t, weights["freqs"]), below(weights, "proj_in"))
    return linear(silu(h), below(weights, "proj_out"))


def adaln_base(act_cond: Array, weights: Weights) -> Array:
    """What all decoder blocks share of their modulation: one projection of SiLU(cond), [B,C] -> [B,2C]."""
    return linear(act_cond, below(weights, "proj"))


def adaln_low_rank_delta(act_cond: Array, weights: Weights) -> Array:
    """What one decoder block adds to the shared modulation: up(down(SiLU(cond))), neither with a bias."""
    return linear(linear(act_cond, below(weights, "down")), below(weights, "up"))


def block_modulation(cond: Array, decoder_weights: Weights, block_index: int) -> Array:
    """m_i = base(SiLU(cond)) + delta_i(SiLU(cond)); the blocks are counted through start, middle and end."""
    act_cond = silu(cond)
    delta = adaln_low_rank_delta(act_cond, below(decoder_weights, f"adaln_deltas.{block_index}"))
    return adaln_base(act_cond, below(decoder_weights, "adaln_base")) + delta


def pixel_unshuffle(x: Array, size: int) -> Array:
    """[B,C,h*P,w*P] -> [B,C*P*P,h,w]; channel c*P*P + dy*P + dx is pixel (dy,dx) of the patch in channel c."""
    batch, channels, height, width = x.shape
    tiles = x.reshape(batch, channels, height // size, size, width // size, size)
    return tiles.transpose(0, 1, 3, 5, 2, 4).reshape(batch, channels * size * size, height // size, width // size)


def pixel_shuffle(x: Array, size: int) -> Array:
    """[B,C*P*P,h,w] -> [B,C,h*P,w*P]: undoes `pixel_unshuffle` (Shi et al. 2016, arXiv 1609.05158)."""
    batch, channels, height, width = x.shape
    tiles = x.reshape(batch, channels // size**2, size, size, height, width)
    return tiles.transpose(0, 1, 4, 2, 5, 3).reshape(batch, channels // size**2, height * size, width * size)


def patchify(x: Array, weights: Weights, patch_size: int) -> Array:
    """Pixels to features: pixel unshuffle, then a 1x1 convolution; [B,3,H,W] -> [B,C,h,w]."""
    return conv_1x1(pixel_unshuffle(x, patch_size), below(weights, "proj"))


def unpatchify(x: Array, out_proj: Weights, patch_size: int) -> Array:
    """Features to pixels: a 1x1 convolution, then pixel shuffle; [B,C,h,w] -> [B,3,H,W]."""
    return pixel_shuffle(conv_1x1(x, out_proj), patch_size)


# --- the whole model ------------------------------------------------------------------------------------------------


def encoder(images: Array, weights: Weights, config: Config) -> tuple[Array, Array]:
    """Images in [-1,1] -> the raw posterior's (mean, logsnr), each [B,Z,h,w]; one head, mean in its first half.

    A deterministic encoder's head holds the mean alone: a posterior without width, logsnr infinite.
    """
    x = patchify(images, below(weights, "encoder.patchify"), config["patch_size"])
    for index in range(config["encoder_depth"]):
        x = fcdm_block(x, below(weights, f"encoder.blocks.{index}"))
    head = conv_1x1(x, below(weights, "encoder.to_bottleneck"))
    mean, logsnr = (head, np.full_like(head, np.inf)) if _is_deterministic(config) else np.split(head, 2, axis=1)
    if config["bottleneck_norm_mode"] == "channel_wise":
        mean = channel_wise_rms_norm(mean)
    return mean, logsnr


def decoder_block_names(config: Config) -> list[str]:
    """The decoder's blocks in order; a block's place in this list is the index of its AdaLN delta."""
    start, end = config["decoder_start_blocks"], config["decoder_end_blocks"]
    sizes = {"start_blocks": start, "middle_blocks": config["decoder_depth"] - start - end, "end_blocks": end}
    return [f"{stage}.{index}" for stage, size in sizes.items() for index in range(size)]


def decoder(
    x_t: Array, t: Array, latents: Array, weights: Weights, config: Config, *, drop_middle_blocks: bool = False
) -> Array:
    """The x0 prediction, [B,3,H,W], from noisy pixels, time [B] and raw latents [B,Z,h,w]."""
    own = below(weights, "decoder")
    cond = time_embedding(t, below(own, "time_embed"))
    names = decoder_block_names(config)

    def run_stage(stage: str, x: Array) -> Array:
        for index, name in enumerate(names):
            if name.startswith(stage):
                x = fcdm_block(x, below(own, name), block_modulation(cond, own, index))
        return x

    x_feat = patchify(x_t, below(own, "patchify"), config["patch_size"])
    z = conv_1x1(latents, below(own, "latent_up"))
    fused = conv_1x1(np.concatenate([x_feat, z], axis=1), below(own, "fuse_in"))
    start = run_stage("start_blocks", fused)
    dropped = np.broadcast_to(own["path_drop_mask_feature"], start.shape)
    middle = dropped if drop_middle_blocks else run_stage("middle_blocks", start)
    fused = conv_1x1(np.concatenate([start, middle], axis=1), below(own, "fuse_skip"))
    return unpatchify(run_stage("end_blocks", fused), below(own, "out_proj"), config["patch_size"])


def encode(images: Array, weights: Weights, config: Config) -> Array:
    """Images in [-1,1] -> whitened latents; with "patch_2x2" four neighbours become channels before whitening."""
    z = posterior_mode(*encoder(images, weights, config))
    if config["bottleneck_patchify_mode"] == "patch_2x2":
        z = pixel_unshuffle(z, 2)
    return whiten(z, *running_stats(weights), config["latent_running_stats_eps"])


def running_stats(weights: Weights) -> tuple[Array, Array]:
    """The latents' mean and variance over the training images, per channel."""
    return weights["latent_norm_running_mean"], weights["latent_norm_running_var"]


def raw_latents(whitened: Array, weights: Weights, config: Config) -> Array:
    """Whitened latents -> what the decoder takes."""
    z = dewhiten(whitened, *running_stats(weights), config["latent_running_stats_eps"])
    return pixel_shuffle(z, 2) if config["bottleneck_patchify_mode"] == "patch_2x2" else z


def decode(
    whitened: Array,
    noise: Array,
    weights: Weights,
    config: Config,
    *,
    num_steps: int = 1,
    sampler: str = "ddim",
    schedule: str = "linear",
    pdg: bool = False,
    pdg_strength: float = 2.0,
) -> Array:
    """Whitened latents and [B,3,H,W] noise of standard deviation `pixel_noise_std` -> images, unclamped."""
    latents = raw_latents(whitened, weights, config)

    def predict(x_t: Array, t: Array) -> Array:
        times = np.full(len(x_t), t)
        x0_full = decoder(x_t, times, latents, weights, config)
        if not pdg:
            return x0_full
        x0_drop = decoder(x_t, times, latents, weights, config, drop_middle_blocks=True)
        return path_drop_guidance(x0_full, x0_drop, pdg_strength)

    grid = time_grid(num_steps, schedule)
    x_1 = initial_state(noise, config["logsnr_min"], config["logsnr_max"])
    return sample(predict, x_1, grid, vp_logsnr(grid, config["logsnr_min"], config["logsnr_max"]), sampler)


def sample(predict: Callable[[Array, Array], Array], x_1: Array, grid: Array, logsnrs: Array, sampler: str) -> Array:
    """Walk x_1 down the time grid; `predict(x_t, t)` is x0_hat. The first step of both samplers is the same formula."""
    x_t, x0_hats = x_1, list[Array]()
    for i in range(len(grid) - 1):
        x0_hats.append(predict(x_t, grid[i]))
        if sampler == "ddim":
            x_t = ddim_step(x_t, x0_hats[i], logsnrs[i], logsnrs[i + 1])
        elif i == 0:
            x_t = dpmpp_2m_first_step(x_t, x0_hats[0], logsnrs[0], logsnrs[1])
        else:
            x_t = dpmpp_2m_later_step(x_t, x0_hats[i], logsnrs[i], logsnrs[i + 1], x0_hats[i - 1], logsnrs[i - 1])
    return x_t


# --- the state dict -------------------------------------------------------------------------------------------------


def expected_parameter_shapes(config: Config) -> dict[str, Shape]:
    """Every key of the state dict and its shape: 140 for the published config."""
    width, rank, latent_dim = config["model_dim"], config["adaln_low_rank_rank"], config["bottleneck_dim"]
    patch_dim = config["in_channels"] * config["patch_size"] ** 2
    stored_dim = latent_dim * (4 if config["bottleneck_patchify_mode"] == "patch_2x2" else 1)
    shapes: dict[str, Shape] = {
        "latent_norm_running_mean": (stored_dim,),
        "latent_norm_running_var": (stored_dim,),
        **_conv("encoder.patchify.proj", patch_dim, width),
        **_conv("encoder.to_bottleneck", width, latent_dim if _is_deterministic(config) else 2 * latent_dim),
        **_conv("decoder.patchify.proj", patch_dim, width),
        **_conv("decoder.latent_up", latent_dim, width),
        **_conv("decoder.fuse_in", 2 * width, width),
        "decoder.time_embed.freqs": (TIME_FREQ_DIM // 2,),
        **_linear("decoder.time_embed.proj_in", TIME_FREQ_DIM, width),
        **_linear("decoder.time_embed.proj_out", width, width),
        **_linear("decoder.adaln_base.proj", width, 2 * width),
        **_conv("decoder.fuse_skip", 2 * width, width),
        "decoder.path_drop_mask_feature": (1, width, 1, 1),
        **_conv("decoder.out_proj", width, patch_dim),
    }
    for index in range(config["encoder_depth"]):
        shapes |= _block(f"encoder.blocks.{index}", config) | {f"encoder.blocks.{index}.layer_scale": (width,)}
    for index, name in enumerate(decoder_block_names(config)):
        shapes |= _block(f"decoder.{name}", config)
        shapes[f"decoder.adaln_deltas.{index}.down.weight"] = (rank, width)
        shapes[f"decoder.adaln_deltas.{index}.up.weight"] = (2 * width, rank)
    return shapes


def _is_deterministic(config: Config) -> bool:
    return config["bottleneck_posterior_kind"] == "deterministic"


def _conv(name: str, inputs: int, outputs: int) -> dict[str, Shape]:
    return {f"{name}.weight": (outputs, inputs, 1, 1), f"{name}.bias": (outputs,)}


def _linear(name: str, inputs: int, outputs: int) -> dict[str, Shape]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _block(name: str, config: Config) -> dict[str, Shape]:
    """The eight tensors that encoder and decoder blocks have in common."""
    width, kernel = config["model_dim"], config["depthwise_kernel_size"]
    hidden = int(width * config["mlp_ratio"])
    return {
        f"{name}.dwconv.weight": (width, 1, kernel, kernel),
        f"{name}.dwconv.bias": (width,),
        **_conv(f"{name}.pwconv1", width, hidden),
        f"{name}.grn.gamma": (1, hidden, 1, 1),
        f"{name}.grn.beta": (1, hidden, 1, 1),
        **_conv(f"{name}.pwconv2", hidden, width),
    }


BUFFERS = ("latent_norm_running_mean", "latent_norm_running_var", "decoder.time_embed.freqs")


def expected_num_parameters(config: Config) -> int:
    """Learned values: everything in the state dict but the three buffers."""
    shapes = expected_parameter_shapes(config)
    return sum(math.prod(shape) for name, shape in shapes.items() if name not in BUFFERS)


def random_weights(config: Config, seed: int) -> dict[str, Array]:
    """Weights, exact in float32, with which every tensor moves the output: no gate, scale or offset is near zero."""
    rng = np.random.default_rng(seed)
    shapes = sorted(expected_parameter_shapes(config).items())
    return {name: _random_tensor(name, shape, rng).astype(np.float32).astype(np.float64) for name, shape in shapes}


def _random_tensor(name: str, shape: Shape, rng: np.random.Generator) -> Array:
    """Matrices keep the size of what passes through them; all else is of the order of one."""
    if name == "decoder.time_embed.freqs":
        return time_frequencies()
    if name == "latent_norm_running_var":
        return rng.uniform(0.01, 2.0, shape)  # small enough for the eps that is added to it to be seen
    if name.endswith("layer_scale"):
        return rng.uniform(0.3, 2.0, shape)
    if name.endswith(".weight"):
        return rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
    return 0.5 * rng.standard_normal(shape)
