from orchestrator.provenance import data_of


def test_data_of_one_dataset_of_several_and_of_none():
    digits = {"name": "digits"}
    assert data_of({"data_digest": "d0", "dataset": digits}) == [
        {"name": "digits", "digest": "d0", "source": digits}
    ]
    assert data_of({"data_digest": "d0"}) == [{"name": "data", "digest": "d0", "source": None}]
    several = [{"label": "wine", "data": "d1"}, {"label": "iris", "data": "d2"}]
    assert [(one["name"], one["digest"]) for one in data_of({"datasets": several})] == [
        ("wine", "d1"),
        ("iris", "d2"),
    ]
    assert data_of({}) == []
