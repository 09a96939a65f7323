"""What every model promises, whatever it is built of: one class of tests, inherited."""

import copy

import huggingface_hub
import pytest
import torch

import pna

ODD = (33, 47)


class ModelContract:
    """Tests of a model.

    A subclass has the fixture `model`, a segmenter in evaluation mode, and says how it is loaded,
    which of its weights a training step reaches, and which formats hold it.
    """

    def load(self, path_or_name, request):
        """Read a saved model back."""
        return pna.load(path_or_name)

    def reached(self, model):
        """Names of the weights that get a gradient in a training step."""
        return {name for name, p in model.named_parameters() if p.requires_grad}

    def formats(self, request):
        """Formats that hold the model; the others must be refused in words."""
        return ("onnx", "pt2")

    @torch.inference_mode()
    @pytest.mark.parametrize("size", [(1, 1), ODD])
    def test_any_size(self, model, size):
        output = model(torch.rand(2, 3, *size), stages=True)
        assert output.logits.shape == (2, model.num_classes, *size)
        assert output.logits.isfinite().all()
        assert len(output.stages) == model.num_stages
        for logits in (output.coarse, *output.stages):
            assert model.upsample(logits, size).shape == output.logits.shape

    @torch.inference_mode()
    def test_saved_and_loaded(self, model, tmp_path, request):
        model.save_pretrained(tmp_path)
        self._assert_same(self.load(tmp_path, request), model)

    @torch.inference_mode()
    def test_from_the_hub(self, model, tmp_path, monkeypatch, request):
        model.save_pretrained(tmp_path / "snapshot")
        monkeypatch.chdir(tmp_path)  # where no folder has the repository's name

        def download(repository, allow_patterns):
            assert repository == "owner/model"
            return str(tmp_path / "snapshot")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        self._assert_same(self.load("owner/model", request), model)

    def _assert_same(self, loaded, model):
        assert loaded.config == model.config
        assert (loaded.labels, loaded.origin) == (model.labels, model.origin)
        images = torch.rand(1, 3, *ODD)
        torch.testing.assert_close(loaded(images).logits, model(images).logits)

    def test_a_training_step(self, model):
        trained = copy.deepcopy(model).train()
        optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-3)
        before = {name: p.detach().clone() for name, p in trained.named_parameters()}
        output = trained(torch.rand(2, 3, *ODD))
        labels = torch.randint(trained.num_classes, (2, *ODD))
        pna.segmentation_loss(output, labels, trained).total.backward()
        grads = {name: p.grad for name, p in trained.named_parameters()}
        assert all(grad.isfinite().all() for grad in grads.values() if grad is not None)
        assert [name for name in self.reached(trained) if grads[name] is None] == []
        optimizer.step()
        assert any(not torch.equal(p, before[name]) for name, p in trained.named_parameters())

    @pytest.mark.slow
    @torch.inference_mode()
    def test_compiled_for_free_sizes(self, model):
        torch.compiler.reset()
        compiled = torch.compile(model, backend="aot_eager", dynamic=True)
        for size in (ODD, (70, 90)):
            images = torch.rand(1, 3, *size)
            expected = model(images).logits
            scale = float(expected.abs().max())
            torch.testing.assert_close(
                compiled(images).logits, expected, rtol=1e-3, atol=1e-4 * scale
            )

    @pytest.mark.slow
    @pytest.mark.filterwarnings("default")
    @pytest.mark.parametrize("to", ["onnx", "pt2"])
    def test_exported(self, model, to, tmp_path, request):
        """`export_model` itself compares the file with the model at five sizes."""
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
        if to not in self.formats(request):
            with pytest.raises(
                pna.PnaError, match="cannot be exported|no translation to|is not written"
            ):
                pna.export_model(model, tmp_path / f"model.{to}", to=to)
            assert list(tmp_path.iterdir()) == []
            return
        report = pna.export_model(model, tmp_path / f"model.{to}", to=to)
        assert len(report.parity) == 5
