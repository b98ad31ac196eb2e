"""`gateway import` as a shell sees it: ours on stdout, what was lost on stderr, no secret on either."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def gateway(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "COLUMNS": "100", "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-m", "gateway", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=clean | environ, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_configuration_of_litellms_becomes_one_that_check_finds_sound(tmp_path: Path) -> None:
    """With YAML's anchors, which its own loader takes, and an address from the environment."""
    (tmp_path / "config.yaml").write_text(
        "x-common: &common {api_key: sk-canary-1, api_base: os.environ/BASE}\n"
        "model_list:\n  - model_name: m\n    litellm_params: {<<: *common, model: hosted_vllm/a}\n"
    )
    done = gateway("import", "litellm", tmp_path / "config.yaml", BASE="http://vllm:8000/v1")
    assert done.returncode == 0, done.stderr
    assert "base_url: http://vllm:8000/v1" in done.stdout
    assert "$.model_list[0].litellm_params.api_key: is the secret itself" in done.stderr
    assert "hang on one provider, as they did, and say so (`single_provider_ack`): m\n" in done.stderr
    assert "canary" not in done.stdout + done.stderr
    (tmp_path / "ours.yaml").write_text(done.stdout)
    assert gateway("check", tmp_path / "ours.yaml").returncode == 0


def test_it_goes_to_a_file_when_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"targets": [{"provider": "openai"}]}))
    untold = gateway("import", "portkey", tmp_path / "config.json")
    assert untold.returncode == 1
    assert "--model NAME" in untold.stderr
    done = gateway("import", "portkey", tmp_path / "config.json", "--model", "gpt-4.1", "--output", tmp_path / "o.yaml")
    assert (done.returncode, done.stdout) == (0, "")
    assert gateway("check", tmp_path / "o.yaml").returncode == 0


def test_what_cannot_be_read_is_not_quoted(tmp_path: Path) -> None:
    """Not even by the parser's own message, which shows the line."""
    for name, text in {"a.yaml": "a: [sk-canary", "b.json": '{"a": sk-canary}', "c.yaml": "sk-canary"}.items():
        (tmp_path / name).write_text(text)
        done = gateway("import", "litellm", tmp_path / name)
        assert (done.returncode, done.stdout) == (1, "")
        assert "canary" not in done.stderr
        assert "Traceback" not in done.stderr


def test_a_file_of_which_nothing_can_be_carried_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model_list: [{model_name: '*', litellm_params: {model: '*'}}]\n")
    done = gateway("import", "litellm", tmp_path / "config.yaml")
    assert done.returncode == 1
    assert "$.model_list[0].model_name: is not carried" in done.stderr
    assert "nothing of" in done.stderr
