import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stream.scoring.model import load
from training.cli import cli
from training.seeded import seeded_model


def call(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def taobao_file(path: Path, n_users: int = 60, n_rounds: int = 12) -> Path:
    """Users who look at something every two hours; every second one buys ten minutes after a cart."""
    lines = []
    for user in range(n_users):
        t = 1_511_600_000 + 37 * user
        for turn in range(n_rounds):
            behaviour = "cart" if (user + turn) % 3 == 0 else "pv"
            lines.append(f"{user},{turn},{turn % 4},{behaviour},{t}")
            if behaviour == "cart" and user % 2:
                lines.append(f"{user},{turn},{turn % 4},buy,{t + 600}")
            t += 7_200
    path.write_text("\n".join(lines) + "\n")
    return path


def test_run_writes_a_model_that_a_worker_takes(tmp_path: Path) -> None:
    log = taobao_file(tmp_path / "log.csv")
    result = call("run", "--events", log, "--format", "taobao", "--out", tmp_path / "out", "--epochs", "2")
    assert result.exit_code == 0, result.output
    data = (tmp_path / "out" / "model.onnx").read_bytes()
    said = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert said["sha256"] == load(data).hex
    assert said["sha256"] in result.output
    assert said["epochs"] == 2
    assert load(data).metadata.horizon_ms == 3_600_000


@pytest.mark.parametrize(
    ("args", "exit_code", "text"),
    [
        (["--events", "nowhere"], 2, "neither a file nor a broker"),
        (["--events", "{log}"], 2, "say what it is by --format"),
        (["--events", "{log}", "--format", "xml"], 2, "known are taobao, rees46, completejourney"),
        (["--events", "{log}", "--format", "rees46"], 2, "the header lacks event_time"),
        (["--events", "nowhere", "--format", "taobao"], 1, "nowhere: No such file or directory"),
        (["--events", "{empty}", "--format", "taobao"], 1, "there are no events"),
        (["--events", "{log}", "--format", "taobao", "--horizon", "40d"], 1, "not more than the horizon of 3456000 s"),
        (["--events", "{views}", "--format", "taobao"], 1, "both outcomes are needed"),
        (["--events", "{log}", "--format", "taobao", "--horizon", "1y"], 2, "no length of time"),
        (["--events", "{log}", "--format", "taobao", "--horizon", "0h"], 2, "no length of time"),
        (["--events", "{log}", "--format", "taobao", "--model", "oracle"], 2, "known are lstm, gru, rnn"),
        (["--events", "{log}", "--format", "taobao", "--epochs", "0"], 2, "--epochs"),
        (["--events", "{log}", "--format", "taobao", "--champion", "{log}"], 1, "log.csv: model refused (not_onnx)"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, args: list[str], exit_code: int, text: str) -> None:
    files = {"log": taobao_file(tmp_path / "log.csv"), "empty": tmp_path / "empty.csv", "views": tmp_path / "views.csv"}
    files["empty"].write_text("")
    files["views"].write_text("".join(f"{n % 50},1,1,pv,{1_511_600_000 + 60 * n}\n" for n in range(500)))
    out = tmp_path / "out"
    result = call("run", *(arg.format(**files) for arg in args), "--out", out)
    assert result.exit_code == exit_code, result.output
    assert text in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not out.exists()


def test_an_out_that_cannot_be_written(tmp_path: Path) -> None:
    log = taobao_file(tmp_path / "log.csv")
    result = call("run", "--events", log, "--format", "taobao", "--epochs", "1", "--out", "/proc/nowhere")
    assert result.exit_code == 1
    assert "/proc/nowhere" in result.output


def test_show_takes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(seeded_model(1))
    said = json.loads(call("models", "show", path).output)
    assert said["sha256"] == load(seeded_model(1)).hex
    assert said["metadata"]["architecture"] == "lstm"


def test_publish_needs_a_file_that_is_a_model(tmp_path: Path) -> None:
    assert "No such file" in call("publish", tmp_path / "none.onnx").output
    path = tmp_path / "text.onnx"
    path.write_text("text")
    result = call("publish", path)
    assert result.exit_code == 1
    assert "not_onnx" in result.output


@pytest.mark.parametrize("args", [[], ["run"], ["publish"], ["models"], ["models", "list"], ["models", "show"]])
def test_help_has_an_example_and_loads_no_tensorflow(args: list[str]) -> None:
    code = """
import sys
from training.cli import cli
cli(sys.argv[1:], standalone_mode=False)
print("tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, *args, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("False")
    assert args == ["models"] or "python -m training" in done.stdout


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorflow", "training.fit", "training.models.lstm", "training.models.registry", "training.export"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setitem(sys.modules, "keras", None)
    log = taobao_file(tmp_path / "log.csv")
    result = call("run", "--events", log, "--format", "taobao", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert ".[training]" in result.output
