"""What is sent to a machine is what its node needs."""

import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline
from kedro.runner.task import Task

from wm_pipelines.datasets.local import TextDataset
from wm_pipelines.pipelines.bench import Collecting

cloudpickle = pytest.importorskip("ray").cloudpickle


def joined(**texts: str) -> str:
    return "".join(texts.values())


def task_of(count: int) -> Task:
    """A node of two inputs, in a catalog of many datasets."""
    names = [f"text_{i}" for i in range(count)]
    catalog = DataCatalog({name: TextDataset(filepath=f"/data/{name}.txt") for name in names})
    catalog["params:own"] = {"value": 1}
    inputs = {"first": "text_0", "second": "text_1", "own": "params:own"}
    return Task(Node(joined, inputs=inputs, outputs="text_2", name="join"), catalog, is_async=False)


def test_a_task_travels_with_its_own_datasets_alone():
    from wm_pipelines.runners.ray_runner import _alone

    few, many = (_alone(task_of(count)) for count in (3, 1000))
    assert set(many.catalog) == {"text_0", "text_1", "text_2", "params:own"}
    assert many.parallel
    assert len(cloudpickle.dumps(many)) == len(cloudpickle.dumps(few))
    assert many.catalog.load("params:own") == {"value": 1}
    assert str(many.catalog.get("text_2")._filepath) == "/data/text_2.txt"


def test_a_node_that_collects_is_the_same_node_after_a_journey():
    inputs = {f"from_{i}": f"text_{i}" for i in range(50)}
    node = Collecting(joined, inputs=inputs, outputs="all", name="collect", namespace="there")
    again = cloudpickle.loads(cloudpickle.dumps(node))
    assert again == node
    assert again in {node}
    assert Pipeline([node]).nodes == [again]
    assert node != Collecting(joined, inputs=inputs, outputs="other", name="collect", namespace="there")
