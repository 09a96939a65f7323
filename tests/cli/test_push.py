"""Models go to the hub and come back, by a server that stands in for it."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

import pna
from pna.__main__ import main
from pna.model.card import model_card
from pna.train.recipe import dump_recipe, parse_recipe

SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as one repository needs; files are in `server.files`."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        files = self.server.files
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self.answer({"url": f"http://{self.headers['Host']}/me/model"})
        elif "/preupload/" in self.path:
            wanted = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in wanted
            ]
            self.answer({"files": modes})
        elif "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    files[value["path"]] = base64.b64decode(value["content"])
            address = f"http://{self.headers['Host']}/me/model/commit/{SHA}"
            self.answer({"commitUrl": address, "commitOid": SHA, "hookOutput": ""})
        else:  # the check of the card's metadata
            self.answer({"errors": [], "warnings": []})

    def do_GET(self):
        files = self.server.files
        if "/tree/" in self.path:
            listed = [
                {"type": "file", "path": name, "size": len(x), "oid": hashlib.sha1(x).hexdigest()}
                for name, x in files.items()
            ]
            self.answer(listed)
            return
        if self.path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in files]
            self.answer({"id": "me/model", "sha": SHA, "siblings": siblings})
            return
        content = files[self.path.rpartition("/")[2]]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", hashlib.sha1(content).hexdigest())
        self.send_header("X-Repo-Commit", SHA)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_HEAD(self):
        self.do_GET()

    def answer(self, content):
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def hub():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.files, server.created = {}, []
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def finished(tmp_path):
    """A run's folder: a model, its scores and its recipe."""
    run = tmp_path / "run"
    pna.load("voc-lite").save_pretrained(run / "model")
    scores = {"miou": 0.4271, "boundary_miou": None}
    (run / "evaluation").mkdir()
    (run / "evaluation" / "scores.json").write_text(
        json.dumps(
            {
                "dataset": "VOC2012",
                "num_images": 100,
                "num_available": 200,
                "labels": {"name": "voc"},
                "stages": {"P0": {"miou": 0.267, "boundary_miou": 0.138}, "P4": scores},
            }
        )
    )
    recipe = parse_recipe(
        {
            "model": {"preset": "lite"},
            "data": {"name": "voc2012", "root": "/home/me/secret/voc2012"},
            "schedule": {"steps": 3},
        }
    )
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    return run


def in_a_process(hub, tmp_path, code):
    """The hub's address is read when its library is imported."""
    host, port = hub.server_address
    env = os.environ | {
        "HF_ENDPOINT": f"http://{host}:{port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": "hf_token",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=tmp_path
    )


def test_a_run_is_pushed_and_loaded_from_there(hub, finished, tmp_path):
    words = ["push", str(finished), "me/model", "--private", "--license", "cc-by-4.0"]
    done = in_a_process(
        hub, tmp_path, f"from pna.__main__ import main; raise SystemExit(main({words}))"
    )
    assert done.returncode == 0, done.stderr
    assert "me/model: use it as --model me/model" in done.stdout
    assert sorted(hub.files) == ["README.md", "config.json", "model.safetensors"]
    made = hub.created[0]  # how it is said depends on the library's version
    assert made.get("private") is True or made.get("visibility") == "private"
    code = (
        "import pna, torch; model = pna.load('me/model'); "
        "print(model.num_classes, model(torch.rand(1, 3, 32, 32)).logits.shape[1])"
    )
    loaded = in_a_process(hub, tmp_path, code)
    assert loaded.stdout.split() == ["21", "21"], loaded.stderr


def test_the_card_has_scores_recipe_and_no_folders(finished, capsys):
    assert main(["push", str(finished), "me/model", "--license", "cc-by-4.0", "--dry-run"]) == 0
    card = capsys.readouterr().out
    _, head, text = card.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["library_name"] == "pna"
    assert metadata["pipeline_tag"] == "image-segmentation"
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "miou", "value": 42.71, "name": "mIoU"}]
    assert "VOC2012, 100 of 200 images" in text
    assert "| P0 | 26.7 | 13.8 |" in text
    assert "| P4 | 42.7 | - |" in text
    assert "| 0 | background | 0, 0, 0 |" in text
    assert "root: voc2012" in text
    assert "secret" not in card
    assert 'pna.Predictor("me/model")' in text


def test_a_bundled_model_has_a_card_without_scores(capsys):
    assert main(["push", "voc-lite", "me/voc", "--dry-run"]) == 0
    card = capsys.readouterr().out
    assert "## Scores" not in card
    assert "# voc" in card.splitlines()


def test_cards_of_cascades_say_so():
    from torchvision.models.segmentation import fcn_resnet50

    network = fcn_resnet50(weights=None, weights_backbone=None, num_classes=3)
    model = pna.cascade(network, 3, normalize="imagenet")
    card = model_card(model.config, model.labels, "me/model")
    assert "A network of another library, refined by Progressive" in card


def test_damaged_scores_are_named(finished, capsys):
    (finished / "evaluation" / "scores.json").write_text("{")
    assert main(["push", str(finished), "me/model", "--dry-run"]) == 2
    assert "scores.json: expected JSON" in capsys.readouterr().err


def test_no_such_model(capsys):
    assert main(["push", "nothing", "me/model", "--dry-run"]) == 2
    assert "no model 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("entry", ["voc_lite", "damage_lite", "create_model"])
def test_entry_points_of_torch_hub(entry):
    import torch

    root = str(pna.__path__[0]).partition("/src/")[0]
    arguments = ("lite", 3) if entry == "create_model" else ()
    options = {"encoder_weights": None} if entry == "create_model" else {}
    model = torch.hub.load(root, entry, *arguments, source="local", **options)
    assert isinstance(model, torch.nn.Module)


@pytest.mark.parametrize("name", ["noslash", "a/b/c", "/n", "o/", "o/-n", "o/n..x"])
def test_names_that_the_hub_refuses(name, capsys):
    assert main(["push", "voc-lite", name, "--dry-run"]) == 2
    assert f"expected OWNER/NAME, got {name!r}" in capsys.readouterr().err
