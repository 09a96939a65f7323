import json
import re

import pytest
from PIL import Image

from pna.cli import main
from pna.data import DATASETS, CamVid
from pna.data.synthetic import (
    write_camvid,
    write_cityscapes,
    write_cocostuff10k,
    write_damage,
    write_deepglobe,
    write_folder,
    write_trans10k,
    write_voc,
)
from pna.labels import LabelSpace, generic

WRITERS = {
    "voc2012": write_voc,
    "cityscapes": write_cityscapes,
    "cocostuff10k": write_cocostuff10k,
    "deepglobe": write_deepglobe,
    "trans10k": write_trans10k,
    "camvid": write_camvid,
    "damage": write_damage,
}
SIZE = (24, 32)


def check(name, root, *arguments):
    words = ["--dataset", name, "--root", str(root), *map(str, arguments), "--workers", "0"]
    return main(["data", "check", *words])


@pytest.fixture
def camvid(tmp_path):
    return write_camvid(tmp_path / "camvid", size=SIZE)


@pytest.mark.parametrize("name", WRITERS)
def test_every_data_set_can_be_checked(tmp_path, capsys, name):
    root = WRITERS[name](tmp_path / "data", size=SIZE)
    chosen = ["--split", "train,val"] if name == "camvid" else []
    out = tmp_path / "sheets"
    assert check(name, root, *chosen, "--subset", "--limit", 5, "-o", out) == 0
    printed = capsys.readouterr()
    assert "Nothing is wrong." in printed.out
    splits = chosen[1].split(",") if chosen else list(DATASETS[name].counts or ("train", "test"))
    assert sorted(file.stem for file in out.iterdir()) == sorted(splits)
    for split in splits:
        assert re.search(rf"^{split} ", printed.out, re.M)
        assert f"drew {out / split}.png" in printed.err
    for label in DATASETS[name](root).labels.classes:  # type: ignore[call-arg]
        assert re.search(rf"^{label} ", printed.out, re.M)


def test_published_counts_are_compared(camvid, capsys):
    assert check("camvid", camvid, "--split", "train") == 1
    out = capsys.readouterr().out
    assert "- train: expected 367 images with masks, as published; found 4" in out


def test_a_split_that_is_not_there_is_a_problem(camvid, capsys):
    assert check("camvid", camvid, "--subset") == 1
    assert "- test: no folder" in capsys.readouterr().out


def test_problems_are_listed_up_to_a_limit(camvid, capsys):
    for pair in CamVid(camvid).pairs:
        pair.mask.write_bytes(b"nothing")
    assert check("camvid", camvid, "--subset", "--split", "train", "--show", 3) == 1
    out = capsys.readouterr().out
    assert out.count("cannot read the mask") == 3
    assert "... and 1 more" in out
    assert check("camvid", camvid, "--subset", "--split", "train") == 1
    assert capsys.readouterr().out.count("cannot read the mask") == 4


def test_json_holds_everything(camvid, capsys):
    CamVid(camvid).pairs[1].mask.unlink()
    assert check("camvid", camvid, "--split", "train,val", "--json", "--show", 0) == 1
    train, val = json.loads(capsys.readouterr().out)
    assert (train["split"], val["split"]) == ("train", "val")
    assert (train["num_pairs"], train["expected"], val["num_checked"]) == (3, 367, 2)
    assert any("no mask for '0001TP_000001'" in problem for problem in train["problems"])
    assert len(train["classes"]) == 11


def test_a_contact_sheet_leaves_out_what_is_bad(camvid, tmp_path):
    CamVid(camvid).pairs[1].mask.write_bytes(b"nothing")
    for pair in CamVid(camvid, "val").pairs:
        pair.image.write_bytes(b"nothing")
    out = tmp_path / "new" / "sheets"
    assert check("camvid", camvid, "--subset", "--split", "train,val", "-o", out) == 1
    assert [file.name for file in out.iterdir()] == ["train.png"]
    with Image.open(out / "train.png") as sheet:
        assert sheet.width == 3 * 300 + 4 * 10  # three of four


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path):
        return write_folder(tmp_path / "own", generic(3), size=SIZE, masks="color")

    @pytest.fixture
    def labels(self, tmp_path):
        (tmp_path / "labels.json").write_text(json.dumps(generic(3).to_dict()))
        return ["--labels", tmp_path / "labels.json", "--masks", "color"]

    def test_all_pairs_by_default(self, folder, labels, capsys):
        assert check("folder", folder, *labels, "--json") == 0
        [report] = json.loads(capsys.readouterr().out)
        assert (report["split"], report["num_pairs"], report["expected"]) == (None, 6, None)

    def test_a_part_or_a_list(self, folder, labels, tmp_path, capsys):
        (tmp_path / "some.txt").write_text("10001\n10002\n")
        assert check("folder", folder, *labels, "--split-list", tmp_path / "some.txt") == 0
        assert "\nclass_0 " in capsys.readouterr().out
        number = []
        for part in (["--split-list", tmp_path / "some.txt"], ["--split", "train,val"]):
            assert check("folder", folder, *labels, *part, "--json") == 0
            reports = json.loads(capsys.readouterr().out)
            number.append(sum(report["num_checked"] for report in reports))
        assert number == [2, 6]

    def test_other_masks_than_said(self, folder, labels, capsys):
        assert check("folder", folder, *labels[:2]) == 1
        assert "has mode RGB: expected class indices" in capsys.readouterr().out

    @pytest.mark.parametrize("names", [("road [wet]", "car"), ("road", "car [/]"), ("[bold]", "é")])
    def test_names_of_classes_are_data(self, tmp_path, names, capsys):
        space = LabelSpace("own", names, ((0, 0, 0), (255, 0, 0)))
        folder = write_folder(tmp_path / "own", space, size=SIZE)
        (tmp_path / "labels.json").write_text(json.dumps(space.to_dict()))
        assert check("folder", folder, "--labels", tmp_path / "labels.json") == 0
        out = capsys.readouterr().out
        assert all(f"\n{name} " in out for name in names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["voc", "."], "no data set 'voc': expected one of voc2012, city"),
        (["folder", "."], "--dataset folder needs --labels"),
        (["folder", ".", "--labels", "gone.json"], "gone.json: expected the JSON file"),
        (
            ["camvid", ".", "--masks", "color"],
            "--masks is for --dataset folder; camvid has classes",
        ),
        (["camvid", ".", "--split", "train,dev"], "no split 'dev': expected one of train, val"),
        (["camvid", ".", "--limit", "0"], "--limit must be 1 or more, got 0"),
        (["camvid", ".", "--show", "-1"], "--show must be 0 or more, got -1"),
    ],
)
def test_wrong_use(capsys, arguments, message):
    assert check(*arguments) == 2
    assert capsys.readouterr().err.startswith(f"pna data: {message}")


def test_an_action_is_needed(capsys):
    with pytest.raises(SystemExit):
        main(["data"])
    assert "ACTION" in capsys.readouterr().err
