import numpy as np
import pytest

from graphtheta import datasets
from graphtheta.errors import ConfigError


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_every_bundled_data_set_can_be_trained_on(name):
    graph = datasets.load(name)
    assert graph.num_edges
    assert graph.num_features
    assert set(np.unique(graph.split())) >= {1, 2, 3}
    assert graph.labelled().all()
    assert datasets.read(name).digest() == graph.digest()


@pytest.mark.parametrize("name", datasets.READERS)
def test_every_reader_is_quiet_about_what_it_does_not_know(name):
    reader = datasets.READERS[name]
    for uri in ("", "absent", "/absent/folder", "nothing://there", "s p a c e"):
        assert not reader.recognises(uri)
    assert callable(reader.read)


def test_cora():
    graph = datasets.load("cora")
    assert (graph.num_nodes, graph.num_edges, graph.num_features) == (2708, 10556, 1433)
    assert np.bincount(graph.split())[1:].tolist() == [140, 500, 1000]
    np.testing.assert_allclose(graph.features.sum(axis=1), 1, rtol=1e-5)


def test_unknown_name_or_option_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected a data set among cora, got 'core'"):
        datasets.load("core")
    with pytest.raises(ConfigError, match=r"got 'absent'\. Check that the path exists"):
        datasets.read("absent")
    with pytest.raises(ConfigError, match="expected options among none, got 'features'"):
        datasets.read("cora", features="x")
    (tmp_path / "edges.csv").write_text("1,2\n")
    with pytest.raises(
        ConfigError, match=r"edge-list .*: expected options among src, dst.* got 'id'"
    ):
        datasets.read(str(tmp_path / "edges.csv"), id="x")
