"""What a run is asked to encode: what decides its plan is in the record, by the names of options, and no secret is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from semdis_cli.errors import UsageError
from semdis_cli.files.url import Url
from semdis_cli.option import OptionError
from semdis_cli.provenance import find_differences
from semdis_cli.settings import (
    ColumnSettings,
    CropSettings,
    EncodeSettings,
    FilterSettings,
    GeometrySettings,
    LoadSettings,
    PartSettings,
    ShardSettings,
    SourceSettings,
)
from semdis_cli.sources.input_rules import InputRules, Pattern
from semdis_cli.sources.named import reader_fields
from semdis_cli.sources.names import NamedPath
from semdis_cli.sources.request import Request
from semdis_cli.sources.tars import Tar

NAMED, RULES, SETTINGS = SourceSettings((Path("photos"),)), InputRules(), EncodeSettings()
LOAD = LoadSettings(GeometrySettings(size=32))


def record_of(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"named": NAMED, "rules": RULES, "load": LOAD, "settings": SETTINGS} | changes
    return dict(Request.of(**given).record)


CHANGES: dict[str, dict[str, Any]] = {
    "SOURCE": {"named": SourceSettings((Path("photos"), Path("more")))},
    "--files-from": {"named": replace(NAMED, files_from="list")},
    "--exclude": {"rules": InputRules(exclude=(Pattern("a"),))},
    "--include": {"rules": InputRules(include=(Pattern("a/*"),))},
    "--all-files": {"rules": InputRules(all_files=True)},
    "--crops": {"load": replace(LOAD, crops=CropSettings(3))},
    "--min-size": {"settings": EncodeSettings(filters=FilterSettings(min_size=3))},
    "--max-aspect": {"settings": EncodeSettings(filters=FilterSettings(max_aspect=3.5))},
    "--no-upscale": {"settings": EncodeSettings(filters=FilterSettings(no_upscale=True))},
    "--dedupe": {"settings": EncodeSettings(filters=FilterSettings(dedupe=True))},
    "--captions": {"settings": EncodeSettings(columns=ColumnSettings("txt"))},
    "--caption-lines": {"settings": EncodeSettings(columns=ColumnSettings(caption_lines=True))},
    "--labels": {"settings": EncodeSettings(columns=ColumnSettings(labels="folders"))},
    "--columns": {"settings": EncodeSettings(columns=ColumnSettings(columns="a,b"))},
    "--table": {"settings": EncodeSettings(columns=ColumnSettings(table=Path("table.csv")))},
    "--masks": {"settings": EncodeSettings(latents=PartSettings(masks=Path("masks")))},
    "--shard-size": {"settings": EncodeSettings(shards=ShardSettings(7))},
    "--shard-images": {"settings": EncodeSettings(shards=ShardSettings(shard_images=7))},
}


@pytest.mark.parametrize("flag", CHANGES)
def test_a_difference_goes_by_the_name_of_its_option(flag: str) -> None:
    before = json.loads(json.dumps(record_of()))
    assert find_differences(before, record_of()) == []
    assert [difference.name for difference in find_differences(before, record_of(**CHANGES[flag]))] == [flag]


def test_every_setting_of_columns_filters_shards_and_rules_is_in_the_record() -> None:
    flags = {*record_of()} - {"SOURCE", "--files-from", "--crops", "--masks"}
    groups = ColumnSettings, FilterSettings, ShardSettings, InputRules
    names = {name for group in groups for name in group.__dataclass_fields__} - {"mix_versions"}
    spelled = {f"--{name.replace('_', '-')}" for name in names} - {"--shard-mib"} | {"--shard-size"}
    assert flags == spelled


def test_a_source_is_another_one_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = record_of()
    monkeypatch.chdir(tmp_path)
    assert record_of()["SOURCE"] == [f"{tmp_path}/photos"]
    assert record_of()["SOURCE"] != before["SOURCE"]


def test_no_secret_of_a_url_is_in_it() -> None:
    url = Url("https://me:secret@host.test/x.tar?token=secret")
    request = Request.of(SourceSettings((url,)), RULES, LOAD, SETTINGS)
    fields = reader_fields(Tar(url, NamedPath.of_container(url)), request.sources)
    assert "secret" not in json.dumps([dict(request.record), fields])
    assert request.record["SOURCE"] == ["https://host.test/x.tar"]


def test_what_can_be_read_once_has_no_plan() -> None:
    with pytest.raises(UsageError, match="stdin"):
        Request.of(SourceSettings((Path("-"),)), RULES, LOAD, SETTINGS).check()
    with pytest.raises(OptionError, match="name the folder"):
        Request.of(replace(NAMED, files_from="list"), RULES, LOAD, SETTINGS).check()
