"""The model of a run, for another process: it loads the same one, and makes sure that it computes the same."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from semdis_cli.errors import UsageError
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.report import compute_record
from semdis_cli.provenance import ModelIdentity
from semdis_cli.settings import TokenizerSettings


@dataclass(frozen=True)
class ModelCopy:
    """A model by name, with what is on record of it and of how it computes, for one of its devices."""

    identity: ModelIdentity
    settings: TokenizerSettings
    compute: Mapping[str, Any]

    @classmethod
    def of(cls, tokenizer: Tokenizer, device: str) -> "ModelCopy":
        """Return the model of `tokenizer` for `device`."""
        return cls(tokenizer.identity, replace(tokenizer.settings, device=device), compute_record(tokenizer))

    def load(self) -> Tokenizer:
        """Load the model. Raises `UsageError` if it is another one here, or computes in another way."""
        name, source = self.identity.name, self.identity.source
        tokenizer = Tokenizer.load(name, self.settings, revision=self.identity.revision, source=source)
        ours, theirs = ({**asdict(self.identity), **self.compute}, _record(tokenizer))
        differences = [f"{name} {theirs[name]}, not {ours[name]}" for name in ours if theirs[name] != ours[name]]
        if differences:
            what = f"would make other latents than the process that has the plan ({'; '.join(differences)})"
            raise UsageError(what, place=self.settings.device)
        return tokenizer


def _record(tokenizer: Tokenizer) -> dict[str, Any]:
    return {**asdict(tokenizer.identity), **compute_record(tokenizer)}
