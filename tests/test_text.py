"""Text: the tokenizer of a model document, lines and columns of text as rows, and `specnet generate`."""

import json
from pathlib import Path

import numpy as np
import pytest

import specnet
from specnet import CheckpointMismatchError, DataError, SpecError, SpecnetError
from specnet.arrays.tokens import join_tokens, split_text
from specnet.checkpoint import fast_plan
from specnet.inspection.classification import classify
from specnet.prediction.generate import generate
from specnet.training.experiment import load_experiment
from specnet.training.loading import load_data
from tests.commands import run_specnet

NAMES = ["anna", "otto", "bob", "eve", "ada", "lena", "nora", "ben"]


@pytest.fixture(autouse=True)
def _in_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    Path("names.txt").write_text("\n".join(NAMES) + "\n")


def model(tokenizer="characters", time=7, vocabulary=16, units=16, mask_index=0):
    return {
        "input_shape": [time],
        "tokenizer": tokenizer,
        "layers": [
            {"type": "embedding", "vocabulary": vocabulary, "dimension": 6, "mask_index": mask_index},
            {"type": "gru", "units": 12, "return_sequences": True},
            {"type": "affine", "units": units},
        ],
    }


def document(path="names.txt", validation=None, epochs=2, entry=None, **keys):
    return {
        "name": "names",
        "model": model(**keys),
        "data": {"train": {"path": path, **(entry or {})}, "validation": validation},
        "training": {
            "loss": "softmax_cross_entropy",
            "epochs": epochs,
            "batch_size": 4,
            "optimizer": {"type": "adam", "learning_rate": 0.02},
        },
    }


def loaded(**settings):
    return load_data(*load_experiment(document(**settings)))


def refusal(**settings):
    with pytest.raises(DataError) as caught:
        loaded(**settings)
    return str(caught.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "names.txt").write_text("\n".join(NAMES * 2) + "\n")
    return specnet.train(document(path=str(folder / "names.txt"), epochs=90), out=folder / "run").model


# the tokenizer of a document


@pytest.mark.parametrize(
    ("kind", "text", "tokens", "joined"),
    [
        ("characters", "a b\t", ["a", " ", "b", "\t"], "a b\t"),
        ("characters", "e\u0301", ["\u00e9"], "\u00e9"),  # composed, as it looks equal
        ("words", "So good,  it's x_1!", ["So", "good", ",", "it", "'", "s", "x_1", "!"], "So good, it' s x_1!"),
        ("words", " \t", [], ""),
    ],
)
def test_text_is_divided_and_joined(kind, text, tokens, joined):
    assert split_text(kind, text) == tokens
    assert join_tokens(kind, tokens) == joined


def test_the_tokenizer_is_kept_with_the_model_but_is_not_part_of_its_identity():
    short, long = (specnet.ModelSpec(**model(tokenizer)) for tokenizer in ("words", {"type": "words"}))
    assert short == long
    assert json.loads(short.to_json())["tokenizer"] == {"type": "words", "vocabulary": []}
    assert "tokenizer" not in json.loads(specnet.ModelSpec(**model(None)).to_json())
    other = specnet.ModelSpec(**model({"type": "characters", "vocabulary": ["b", "a"]}))
    assert other.identity == short.identity == specnet.ModelSpec(**model(None)).identity
    built = specnet.build(other)
    specnet.save("m.h5", built)
    assert specnet.load("m.h5").spec.tokenizer == other.tokenizer


def test_checkpoints_with_a_vocabulary_load_without_full_validation():
    spec = specnet.ModelSpec(**model({"type": "characters", "vocabulary": ["b", "a"]}))
    text = spec.to_json()
    assert fast_plan._fast_plan(text.encode(), spec.identity) is not None
    for broken in (text.replace('"a"', '"ab"'), text.replace('"a"', '"b"'), text.replace('"characters"', '"letters"')):
        assert fast_plan._fast_plan(broken.encode(), spec.identity) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": "bytes"}, 'tokenizer: expected "characters", "words" or an object with a type, got the string'),
        ({"tokenizer": {"type": "characters", "vocabulary": ["a", "bc"]}}, r"vocabulary\[1\]: expected one character"),
        (
            {"tokenizer": {"type": "words", "vocabulary": ["a b"]}},
            r"vocabulary\[0\]: expected a word, or one character",
        ),
        ({"tokenizer": {"type": "words", "vocabulary": ["a", "b", "a"]}}, r"vocabulary\[2\]: appears a second time"),
        (
            {"tokenizer": {"type": "characters", "vocabulary": list("abcdefghijklmn")}},
            "takes at least 17 integers: 3 are reserved, the tokens follow; got one that takes 16; set the vocabulary",
        ),
        ({"vocabulary": 3}, "takes at least 4 integers"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_a_problem_of_the_document(change, message):
    with pytest.raises(SpecError, match=message):
        specnet.ModelSpec(**model(**change))


def test_a_model_of_numbers_takes_no_tokens():
    with pytest.raises(SpecError, match=r"tokenizer: expected an input_shape of \[time\] and a first layer that takes"):
        specnet.ModelSpec(input_shape=[3], tokenizer="words", layers=[{"type": "affine", "units": 2}])


# lines of a text file


def test_lines_become_tokens_and_the_tokens_that_follow():
    run = loaded()
    tokenizer = run.experiment.model.tokenizer
    counts = {token: "".join(NAMES).count(token) for token in set("".join(NAMES))}
    assert tokenizer.vocabulary == tuple(sorted(counts, key=lambda token: (-counts[token], token)))
    index_of = {token: 3 + at for at, token in enumerate(tokenizer.vocabulary)}
    for name, x, y in zip(NAMES, run.train.inputs, run.train.targets, strict=True):
        tokens = [index_of[token] for token in name]
        rest = [0] * (6 - len(name))
        assert x.tolist() == [1, *tokens, *rest]
        assert y.tolist() == [*tokens, 1, *rest]
    assert run.train.input_dtype == np.int64


def test_the_most_frequent_tokens_are_kept_and_the_others_unknown():
    notes = []
    spec, folder = load_experiment(document(vocabulary=6, units=6))
    run = load_data(spec, folder, notes.append)
    assert run.experiment.model.tokenizer.vocabulary == ("a", "n", "e")
    (note,) = notes
    assert note.startswith("names.txt: the 3 most frequent of 10 tokens are known to the model; a vocabulary of 13 in")
    assert run.train.inputs[1].tolist() == [1, 2, 2, 2, 2, 0, 0]  # otto


def test_blank_lines_windows_line_ends_and_a_byte_order_mark():
    Path("names.txt").write_bytes(b"\xef\xbb\xbfab\r\n\r\n  \r\nb")
    notes = []
    run = load_data(*load_experiment(document()), notes.append)
    assert run.train.inputs.tolist() == [[1, 4, 3, 0, 0, 0, 0], [1, 3, 0, 0, 0, 0, 0]]
    assert "names.txt: 2 blank lines left out" in notes


@pytest.mark.parametrize(
    ("text", "change", "message"),
    [
        (
            b"anna\n\notto\nbarbara\n",
            {},
            "names.txt: line 4: expected at most 6 tokens, as input_shape is [7], one step",
        ),
        (b"anna\nbj\xf6rn\n", {}, "names.txt: line 2: is not UTF-8 text; save it as UTF-8"),
        (b"\n \n", {}, "names.txt: there are no lines of text"),
        (b"anna\n", {"units": 4}, "the tokenizer has 5 indices, and the model's outputs have shape (7, 4)"),
        (b"anna\n", {"mask_index": None}, 'rows of text are padded with 0; set "mask_index": 0 in the embedding'),
        (b"anna\n", {"mask_index": 5}, 'set "mask_index": 0 in the embedding'),
        (b"anna\n", {"tokenizer": None}, 'add "tokenizer": "characters" to the model document'),
        (b"anna\n", {"entry": {"targets": "y"}}, "is text, whose lines are the rows; leave out inputs, targets"),
        (b"anna\n", {"entry": {"inputs": "x"}}, "is text, whose lines are the rows; leave out inputs, targets"),
        (b"anna\n", {"entry": {"window": 3}}, "is text, whose lines are the rows; leave out inputs, targets"),
    ],
)
def test_text_that_does_not_fit_is_refused(text, change, message):
    Path("names.txt").write_bytes(text)
    assert message in refusal(**change)


def test_lines_train_only_a_model_of_the_next_token():
    spec = document()
    spec["model"]["layers"][1]["return_sequences"] = False
    with pytest.raises(DataError, match="lines of text are targets only of a model whose outputs are sequences"):
        load_data(*load_experiment(spec))


def test_a_validation_file_is_read_with_the_vocabulary_of_training():
    Path("more.txt").write_text("nax\n")
    run = loaded(validation={"path": "more.txt"})
    vocabulary = run.experiment.model.tokenizer.vocabulary
    n, a = 3 + vocabulary.index("n"), 3 + vocabulary.index("a")
    assert run.validation.inputs.tolist() == [[1, n, a, 2, 0, 0, 0]]
    assert run.validation.targets.tolist() == [[n, a, 2, 1, 0, 0, 0]]


def test_a_resumed_run_ends_with_the_same_bytes_and_another_vocabulary_is_refused():
    spec = document(validation={"fraction": 0.25}, epochs=4)
    specnet.train(spec, out="whole")
    specnet.train(spec, out="parts", listeners=[lambda event: event.run.stop() if event.run.step >= 3 else None])
    specnet.train(spec, out="parts", resume=True)
    for name in ("last.h5", "best.h5"):
        assert Path("whole", name).read_bytes() == Path("parts", name).read_bytes()
    assert specnet.load("whole/best.h5").spec.tokenizer.vocabulary == tuple("aneobtdlrv")
    Path("names.txt").write_text("zoe\n" * 8)
    spec["training"]["epochs"] = 5
    with pytest.raises(CheckpointMismatchError, match=r"model\.tokenizer\.vocabulary was an array of 10, is an array"):
        specnet.train(spec, out="whole", resume=True, allow_changes=True)


# columns of text


def reviews(**keys):
    lines = ["good film,p", "bad film,n", '"so, so good",p', "so bad,n"] * 5
    Path("t.csv").write_text("\n".join(["review,y", *lines]) + "\n")
    spec = document("t.csv", **{"tokenizer": "words", "units": 2, "time": 4, "epochs": 12, **keys})
    spec["model"]["layers"][1]["return_sequences"] = False
    return spec


def test_a_column_of_text_is_classified():
    run = load_data(*load_experiment(reviews()))
    assert run.experiment.model.tokenizer.vocabulary == ("so", "bad", "film", "good", ",")
    assert run.train.inputs[2].tolist() == [3, 7, 3, 6]
    assert run.train.inputs[3].tolist() == [3, 4, 0, 0]
    assert run.experiment.model.labels == ("n", "p")
    result = specnet.train(reviews(), out="r")
    assert result.history["accuracy"][-1] == 1
    code, out, err = run_specnet("predict", "r/last.h5", "--data", "t.csv", "--targets", "y", "--json")
    assert code == 0, err
    assert "far outside" not in err
    assert json.loads(out)["metrics"]["accuracy"] == 1
    Path("new.txt").write_text("bad good unseen bad\nbad\n")  # for this model, lines are no targets
    code, out, err = run_specnet("predict", "r/last.h5", "--data", "new.txt", "--json")
    assert code == 0, err
    assert json.loads(out)["predictions"][1]["class"] == "n"
    classes = specnet.load("r/last.h5").predict([[4, 6, 2, 4], [4, 0, 0, 0]]).argmax(axis=1)
    assert [row["class"] for row in json.loads(out)["predictions"]] == ["np"[index] for index in classes]


def test_columns_of_text_that_do_not_fit():
    spec = reviews(time=3)
    with pytest.raises(DataError, match=r"t\.csv: row 3: expected at most 3 tokens, as input_shape is \[3\], got 4"):
        load_data(*load_experiment(spec))
    spec = reviews()
    Path("t.csv").write_text("review,other,y\na,b,p\nc,d,n\n")
    with pytest.raises(DataError, match="tokenizer takes one column of text, got review, other; name it under inputs"):
        load_data(*load_experiment(spec))
    spec["data"]["train"]["inputs"] = "review"
    assert len(load_data(*load_experiment(spec)).train) == 2
    Path("t.csv").write_text("review,other,y\na,b,p\n,d,n\n")
    with pytest.raises(DataError, match='row 2, column "review": a value is missing'):
        load_data(*load_experiment(spec))
    spec["data"]["train"]["window"] = 4
    with pytest.raises(DataError, match="takes rows of text, not windows"):
        load_data(*load_experiment(spec))


# generate


def test_generated_lines_are_exact_by_seed(trained):
    lines = list(generate(trained, seed=1, lines=12))
    assert list(generate(trained, seed=1, lines=12)) == lines
    assert list(generate(trained, seed=1, lines=3)) == lines[:3]
    assert list(generate(trained, seed=2, lines=12)) != lines
    assert len(set(lines)) > 3
    assert all(len(line) <= 6 and set(line) <= set("".join(NAMES)) for line in lines)
    assert len(set(lines) & set(NAMES)) > 2  # it has learned something


def test_a_line_goes_on_from_the_prompt_with_the_most_likely_token(trained):
    (line,) = generate(trained, "ot", temperature=0)
    assert line == "otto"
    assert list(generate(trained, "ot", temperature=0.7, top_k=1, seed=5, lines=3)) == ["otto"] * 3
    # by hand, one token after the other
    tokens = trained.spec.tokenizer.vocabulary
    row = np.zeros((1, 7), int)
    row[0, :2] = [1, 3 + tokens.index("e")]
    for step in range(2, 7):
        logits = trained.predict(row)[0, step - 1].astype(float)
        logits[[0, 2, *range(3 + len(tokens), 16)]] = -np.inf
        if logits.argmax() == 1:
            break
        row[0, step] = logits.argmax()
    assert list(generate(trained, "e", temperature=1e-300)) == ["".join(tokens[at - 3] for at in row[0] if at > 2)]


def test_draws_follow_the_probabilities(trained):
    spec = trained.spec
    flat = specnet.build(spec)
    for array in flat.parameters.values():
        array.fill(0)
    bias = flat.parameters["affine_1.bias"]
    bias[[0, 2]] = 50  # padding and unknown are never drawn
    bias[15] = 50  # nor what is no token
    bias[1] = -50
    bias[3], bias[4] = np.log(3), 0
    bias[5:13] = -50
    text = "".join(generate(flat, lines=300, seed=0))
    first, second = spec.tokenizer.vocabulary[:2]
    assert set(text) == {first, second}
    assert len(text) == 1800  # no end: lines stop at the time axis
    assert abs(text.count(first) / len(text) - 0.75) < 0.03
    squared = "".join(generate(flat, lines=300, seed=0, temperature=0.5))
    assert abs(squared.count(first) / len(squared) - 0.9) < 0.03


def test_each_token_is_predicted_at_the_last_token_so_far():
    tokenizer = {"type": "characters", "vocabulary": ["a", "b"]}
    layers = [{"type": "embedding", "vocabulary": 5, "dimension": 5, "mask_index": 0}, {"type": "affine", "units": 5}]
    bigrams = specnet.build(specnet.ModelSpec(input_shape=[9], tokenizer=tokenizer, layers=layers))
    bigrams.parameters["embedding_1.weight"][...] = np.eye(5)
    follows = bigrams.parameters["affine_1.weight"]
    follows.fill(0)
    follows[1, 3] = follows[3, 4] = follows[4, 1] = 1  # the start, a, b, the end
    assert list(generate(bigrams, temperature=0)) == ["ab"]
    assert list(generate(bigrams, "bba", temperature=0)) == ["bbab"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "anx"}, 'prompt: token 3, "x", is not in the vocabulary; the most frequent are aneobtdlrv'),
        ({"prompt": "annaan"}, "prompt: expected at most 5 tokens, as the model's time axis is 7, got 6"),
        ({"temperature": -1}, "temperature: expected a number of at least 0, got -1"),
        ({"temperature": float("nan")}, "temperature: expected a number"),
        ({"top_k": 0}, "top_k: expected a positive integer, got 0"),
        ({"lines": 0}, "lines: expected a positive integer, got 0"),
    ],
)
def test_settings_that_do_not_fit(trained, settings, message):
    with pytest.raises(SpecnetError) as caught:
        generate(trained, **settings)
    assert message in str(caught.value)


def test_models_that_write_no_text():
    layers = [{"type": "affine", "units": 2}]
    with pytest.raises(SpecnetError, match="the model has no tokenizer; train one"):
        generate(specnet.build(specnet.ModelSpec(input_shape=[2], layers=layers)))
    with pytest.raises(SpecnetError, match="a tokenizer without a vocabulary"):
        generate(specnet.build(specnet.ModelSpec(**model())))
    spec = specnet.ModelSpec(**model({"type": "words", "vocabulary": ["a", "b"]}, units=4))
    with pytest.raises(SpecnetError, match=r"whose outputs are tokens, of shape \(time, 5\), got \(7, 4\)"):
        generate(specnet.build(spec))


def test_train_generate_and_predict_as_commands():
    Path("e.json").write_text(json.dumps(document(epochs=1)))
    code, out, err = run_specnet("validate", "e.json")
    assert code == 0, out + err
    code, _, err = run_specnet("train", "e.json")
    assert code == 0, err
    settings = ("--prompt", "a", "--seed", "1", "--temperature", "0.8", "--top-k", "3", "--lines", "3")
    code, out, err = run_specnet("generate", "runs/names/last.h5", *settings)
    assert code == 0, err
    assert len(out.splitlines()) == 3
    assert all(line.startswith("a") for line in out.splitlines())
    code, printed, _ = run_specnet("generate", "runs/names/last.h5", *settings, "--json")
    assert (code, json.loads(printed)["lines"]) == (0, out.splitlines())
    code, _, err = run_specnet("generate", "runs/names/last.h5", "--prompt", "ä")
    assert code == 1
    assert err.startswith('prompt: token 1, "ä", is not in the vocabulary')
    code, out, err = run_specnet("predict", "runs/names/last.h5", "--data", "names.txt", "--out", "p.npz")
    assert code == 0, err
    outputs = np.load("p.npz")["outputs"]
    assert outputs.shape == (8, 7, 16)
    assert np.allclose(outputs.sum(axis=-1), 1, atol=1e-6)
    Path("long.txt").write_text("nannan\n")  # longer than all lines of the run, which is nothing unusual
    code, _, err = run_specnet("predict", "runs/names/last.h5", "--data", "long.txt", "--out", "p.npy")
    assert (code, err) == (0, "p.npy: 1 rows\n")
    assert classify(specnet.load("runs/names/last.h5"), "names.txt") is None  # not one class for each row
    code, out, err = run_specnet("predict", "runs/names/last.h5", "--data", "names.txt", "--targets", "next", "--json")
    assert code == 0, err
    last = json.loads(out)["metrics"]["loss"]
    truth = loaded().train.targets
    kept = truth > 0
    rows, steps = np.nonzero(kept)
    assert last == pytest.approx(-np.log(outputs[rows, steps, truth[kept]]).mean(), rel=1e-5)
    code, _, err = run_specnet("init", "--data", "names.txt", "--target", "y")
    assert code == 1
    assert "names.txt: is text, and init reads numbers" in err
