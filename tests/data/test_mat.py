import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pna.data import DataError
from pna.data.mat import read_mat_mask
from pna.data.synthetic.scene import save_mat

LABELS = np.arange(6 * 300, dtype=np.uint8).reshape(6, 300)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float64])
def test_a_variable_is_read_as_whole_numbers(tmp_path, dtype):
    save_mat(tmp_path / "a.mat", {"S": LABELS.astype(dtype), "captions": ["a", "b"]})
    labels = read_mat_mask(tmp_path / "a.mat", "S")
    assert np.issubdtype(labels.dtype, np.integer)
    np.testing.assert_array_equal(labels, LABELS)


def test_a_field_of_a_struct_is_read(tmp_path):
    save_mat(tmp_path / "a.mat", {"GTcls": {"Segmentation": LABELS, "Boundaries": [1]}})
    np.testing.assert_array_equal(
        read_mat_mask(tmp_path / "a.mat", "GTcls", "Segmentation"), LABELS
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_small_maps_keep_their_shape(tmp_path, shape):
    save_mat(tmp_path / "a.mat", {"S": np.full(shape, 3)})
    assert read_mat_mask(tmp_path / "a.mat", "S").shape == shape


@pytest.mark.parametrize("keys", [("S",), ("GTcls", "Segmentation"), ("T", "Segmentation")])
def test_a_missing_name_is_an_error(tmp_path, keys):
    save_mat(tmp_path / "a.mat", {"T": LABELS, "GTcls": {"Boundaries": LABELS}})
    with pytest.raises(DataError, match=rf"a\.mat has no {'.'.join(keys)}: expected a label map"):
        read_mat_mask(tmp_path / "a.mat", *keys)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 3, 4)), r"a label map \(height, width\), got shape \(2, 3, 4\)"),
        ("cat", "a label map"),
        (np.array([[0.5]]), "expected whole numbers in S"),
        (np.array([[np.nan]]), "expected whole numbers in S"),
    ],
)
def test_what_is_no_label_map_is_an_error(tmp_path, values, message):
    save_mat(tmp_path / "a.mat", {"S": values})
    with pytest.raises(DataError, match=message):
        read_mat_mask(tmp_path / "a.mat", "S")


@given(share=st.floats(0, 0.95))
@pytest.mark.parametrize("keys", [("S",), ("GTcls", "Segmentation")])
def test_a_truncated_file_is_named(tmp_path_factory, keys, share):
    file = tmp_path_factory.getbasetemp() / "truncated.mat"
    save_mat(file, {keys[0]: {keys[1]: LABELS} if keys[1:] else LABELS})
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(DataError, match=r"mask .*truncated\.mat"):
        read_mat_mask(file, *keys)


@pytest.mark.parametrize("content", [None, b"", b"no MATLAB", b"\x89HDF\r\n\x1a\n" * 40])
def test_what_is_no_mat_file_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read the mask .*a\.mat"):
        read_mat_mask(tmp_path / "a.mat", "S")
