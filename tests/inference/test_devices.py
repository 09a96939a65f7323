import pytest
import torch

from pna.errors import PnaError
from pna.inference.devices import default_device, find_device, is_out_of_memory


def test_the_default_is_cuda_where_there_is_one():
    assert default_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert find_device() == default_device()
    assert find_device("cpu") == find_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "0", "cuda:x", ""])
def test_a_name_that_is_no_device(name):
    with pytest.raises(PnaError, match=rf"^expected a device such as cpu, .*, got {name!r}"):
        find_device(name)


@pytest.mark.parametrize("name", ["cuda:99", "mps", "xpu", "meta"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(PnaError, match=rf"^no device '{name}' here: this PyTorch has the CPU"):
        find_device(name)


def test_out_of_memory():
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60)
    assert is_out_of_memory(found.value)
    assert is_out_of_memory(torch.OutOfMemoryError("full"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
