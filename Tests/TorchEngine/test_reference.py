"""Reference files: every supported case passes, and the report is that of the native engine."""

from __future__ import annotations

import json
import pathlib
import subprocess

import pytest

from espalier_torch.__main__ import main
from espalier_torch.parity import CASES, Report


def test_every_reference_file_passes(goldens: str) -> None:
    report = Report(goldens, CASES)
    assert report.passes, "\n".join(Report.rows(r) for r in report.results if not r.passes)
    names = {r.name for r in report.results}
    assert {"pixart_graft/teacher", "pixart_graft/hybrid", "pixart_graft/lora"} <= names
    assert {"sit/model", "sit/paths", "sit/sampling"} <= names
    assert {"dit_tiny", "dit_hybrid", "pixart_tiny", "stage1_ref", "stage2_ref", "vae_tiny", "op_mamba2_n64"} <= names
    assert {name for name, _ in report.unsupported} == {"analysis_ref", "fid_ref", "sit/paths (part)"}


def test_bfloat16_passes(goldens: str, tmp_path: pathlib.Path) -> None:
    for name in ("op_hyena_x_n16", "op_mamba2_n16", "dit_tiny", "dit_hybrid"):
        (tmp_path / f"{name}.safetensors").symlink_to(pathlib.Path(goldens) / f"{name}.safetensors")
    report = Report(str(tmp_path), CASES, "bf16")
    assert report.passes, "\n".join(Report.rows(r) for r in report.results)
    assert max(c.error for r in report.results for c in r.comparisons) > 1e-4


def test_the_report_is_that_of_the_native_engine(
    goldens: str, program: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("op_mha_n16", "op_swa_n16", "fid_ref"):
        (tmp_path / f"{name}.safetensors").symlink_to(pathlib.Path(goldens) / f"{name}.safetensors")
    assert main(["parity", "--device", "cpu", "--json", str(tmp_path)]) == 0
    own = json.loads(capsys.readouterr().out)
    done = subprocess.run([program, "parity", "--json", str(tmp_path)], capture_output=True, text=True, check=True)
    other = json.loads(done.stdout)
    assert own.keys() == other.keys()
    # The native engine measures images, too.
    common = [case for case in other["cases"] if case["name"] != "fid_ref"]
    assert len(common) == len(own["cases"]) == 2
    for a, b in zip(own["cases"], common):
        assert a.keys() == b.keys() and a["name"] == b["name"]
        compared = [{(c["tensor"], c["kind"], c["tolerance"]) for c in x["comparisons"]} for x in (a, b)]
        assert compared[0] == compared[1]


def test_a_wrong_number_fails(goldens: str, tmp_path: pathlib.Path) -> None:
    import support

    path = pathlib.Path(goldens) / "op_mha_n16.safetensors"
    file = support.TensorFile(str(path))
    items = [support.item(n, file.raw(n) + (0.5 if n == "out.y" else 0)) for n in file.names]
    support.write_tensors(str(tmp_path / path.name), items, file.metadata)
    assert main(["parity", "--device", "cpu", str(tmp_path)]) == 1
    assert main(["parity", str(tmp_path / "nowhere")]) == 2
