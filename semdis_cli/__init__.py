"""semdis: a batch tokenizer for SemDisDiffAE. Folders of images in, shards of latents out, and back.

The public Python API below is loaded on first use, so that `import semdis_cli` (and `semdis --help`) never waits for
torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semdis_cli.dataset.latent_dataset import LatentDataset as LatentDataset
    from semdis_cli.dataset.latent_dataset import LatentItem as LatentItem
    from semdis_cli.dataset.latent_dataset import MixedVersionsWarning as MixedVersionsWarning
    from semdis_cli.dataset.padding import PaddedTensors as PaddedTensors
    from semdis_cli.dataset.sampler import BucketBatchSampler as BucketBatchSampler
    from semdis_cli.model.autoencoder import FCDMDiffAE as FCDMDiffAE
    from semdis_cli.model.config import FCDMDiffAEConfig as FCDMDiffAEConfig
    from semdis_cli.model.config import FCDMDiffAEInferenceConfig as FCDMDiffAEInferenceConfig
    from semdis_cli.model.posterior import EncoderPosterior as EncoderPosterior
    from semdis_cli.model.tokenizer import Tokenizer as Tokenizer

__version__ = "0.1.0"

_HOME_OF = {
    "BucketBatchSampler": "semdis_cli.dataset.sampler",
    "EncoderPosterior": "semdis_cli.model.posterior",
    "FCDMDiffAE": "semdis_cli.model.autoencoder",
    "FCDMDiffAEConfig": "semdis_cli.model.config",
    "FCDMDiffAEInferenceConfig": "semdis_cli.model.config",
    "LatentDataset": "semdis_cli.dataset.latent_dataset",
    "LatentItem": "semdis_cli.dataset.latent_dataset",
    "MixedVersionsWarning": "semdis_cli.dataset.latent_dataset",
    "PaddedTensors": "semdis_cli.dataset.padding",
    "Tokenizer": "semdis_cli.model.tokenizer",
}
__all__ = [
    "BucketBatchSampler",
    "EncoderPosterior",
    "FCDMDiffAE",
    "FCDMDiffAEConfig",
    "FCDMDiffAEInferenceConfig",
    "LatentDataset",
    "LatentItem",
    "MixedVersionsWarning",
    "PaddedTensors",
    "Tokenizer",
    "__version__",
]


def __dir__() -> list[str]:
    """The public names, for tab completion."""
    return __all__


def __getattr__(name: str) -> object:
    """Import a public name from where it lives, on first use (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
