"""What the charts share: a legend that is whole."""

import pytest
from matplotlib.figure import Figure

from pna.bench.charts import legend


@pytest.mark.parametrize(("words", "columns"), [(1, 6), (15, 1)])
def test_a_legend_takes_as_many_columns_as_fit(words, columns):
    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes in figure.subplots(1, 2):
        for i in range(8):
            axes.plot([i], label=f"{i} " + "model " * words)
    legend(figure)
    (drawn,) = figure.legends
    assert drawn._ncols == columns
    assert len(drawn.get_texts()) == 8  # one for both panels
    assert drawn.get_window_extent().width <= figure.bbox.width
