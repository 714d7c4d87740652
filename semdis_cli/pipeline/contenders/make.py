"""Specs of a command line -> contenders, each model loaded once."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from semdis_cli.errors import UsageError
from semdis_cli.model.config import FCDMDiffAEInferenceConfig
from semdis_cli.model.peers import PublishedPeer, load_peer
from semdis_cli.model.tokenizer import Tokenizer
from semdis_cli.pipeline.contenders.codecs import CodecContender
from semdis_cli.pipeline.contenders.contender import Contender, GridContender
from semdis_cli.pipeline.contenders.crops import CroppedContender
from semdis_cli.pipeline.contenders.peers import PeerContender
from semdis_cli.pipeline.contenders.tokenized import TokenizedContender
from semdis_cli.pipeline.report import compute_record
from semdis_cli.settings import ImageFormat, LatentSettings, RoundtripSettings
from semdis_cli.settings.contenders import FIRST_TITLE, CodecName, ContenderSpec, PeerName

_FORMATS: dict[CodecName, ImageFormat] = {"jpeg": "jpg", "webp": "webp"}


def make_contenders(
    specs: Iterable[ContenderSpec], tokenizer: Tokenizer, settings: RoundtripSettings
) -> tuple[TokenizedContender, *tuple[Contender, ...]]:
    """Return the contender of the run's own `settings`, and one for each of `specs`.

    Raises `UsageError` for one that is the same as another, and for settings that do not go with its model;
    `CheckpointError` for models that cannot be loaded, `MissingExtraError` for peers without their package.
    """
    specs, first = tuple(specs), TokenizedContender.of(tokenizer, settings)
    if first.title in {spec.title for spec in specs}:
        first = replace(first, title=FIRST_TITLE)
    maker = _Maker(first)
    made: list[Contender] = [first]
    for spec in specs:
        contender = maker.make(spec)
        for other in made:
            if other.record() == contender.record():
                raise UsageError(f"is the same as {other.title!r}: nothing differs", place=spec.option)
        made.append(contender)
    return first, *made[1:]


class _Maker:
    """Makes contenders for a run whose own is `first`."""

    def __init__(self, first: TokenizedContender) -> None:
        self._first = first
        self._tokenizers: dict[tuple[str, str | None], Tokenizer] = {}
        self._peers: dict[tuple[PeerName, str], PublishedPeer] = {}

    def make(self, spec: ContenderSpec) -> Contender:
        """Make one."""
        whole: GridContender
        match spec.kind:
            case "jpeg" | "webp" as codec:
                return CodecContender(spec.title, _FORMATS[codec], spec.quality)
            case "tokenizer":
                whole = self._tokenized(spec)
            case peer:
                whole = self._peer(spec, peer)
        return whole if spec.crops_px is None else _cropped(whole, spec.crops_px, spec)

    def _tokenized(self, spec: ContenderSpec) -> TokenizedContender:
        sampling = _sampling(self._first.sampling, spec)
        if spec.pdg_strength is not None and not sampling.pdg:
            raise UsageError("pdg-strength counts for pdg alone; give pdg too", place=spec.option)
        return TokenizedContender(spec.title, self._tokenizer(spec), _latents(self._first.latents, spec), sampling)

    def _tokenizer(self, spec: ContenderSpec) -> Tokenizer:
        own = self._first.tokenizer
        if spec.model is None:
            return own
        name = (spec.model, spec.revision)
        if name not in self._tokenizers:
            self._tokenizers[name] = self._known(Tokenizer.load(spec.model, own.settings, revision=spec.revision))
        return self._tokenizers[name]

    def _known(self, loaded: Tokenizer) -> Tokenizer:
        """Return the model that is there already, if it is the same by another name."""
        ours = loaded.identity
        for other in (self._first.tokenizer, *self._tokenizers.values()):
            theirs = other.identity
            if (ours.weights_sha256, ours.config_sha256) == (theirs.weights_sha256, theirs.config_sha256):
                return other
        return loaded

    def _peer(self, spec: ContenderSpec, peer: PeerName) -> PeerContender:
        assert spec.folder is not None, "a peer is given with its folder"
        key, own = (peer, spec.folder), self._first.tokenizer
        if key not in self._peers:
            folder = Path(spec.folder).expanduser()
            self._peers[key] = load_peer(peer, folder, own.model.device, own.model.dtype, spec.option)
        compute = compute_record(own)
        how = tuple(
            (field, compute[field]) for field in ("device", "dtype", "torch", "num_threads") if field in compute
        )
        return PeerContender(spec.title, self._peers[key], spec.store_dtype or self._first.latents.store_dtype, how)


def _sampling(own: FCDMDiffAEInferenceConfig, spec: ContenderSpec) -> FCDMDiffAEInferenceConfig:
    """Return how a contender decodes: with the seed of the run, as all do."""
    fields = "num_steps", "pdg", "pdg_strength", "sampler", "schedule"
    return replace(own, **{field: value for field in fields if (value := getattr(spec, field)) is not None})


def _latents(own: LatentSettings, spec: ContenderSpec) -> LatentSettings:
    return replace(own, store_dtype=spec.store_dtype or own.store_dtype, posterior=spec.posterior or own.posterior)


def _cropped(whole: GridContender, crops_px: int, spec: ContenderSpec) -> CroppedContender:
    if crops_px % whole.multiple_px:
        what = f"crops must be a multiple of {whole.multiple_px} px, a position of the latents of that model"
        raise UsageError(what, place=spec.option)
    return CroppedContender(spec.title, whole, crops_px)
