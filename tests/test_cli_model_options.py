"""Options read from the text of the models' files are those of the models."""

import ast
import subprocess
import sys

import pytest

from raypixel.cli import model_options
from raypixel.cli.model_options import UnreadError, ask_kinds, kinds_of_models, read_kinds
from raypixel.models import model_classes


def test_what_is_read_from_the_files_is_what_the_classes_say():
    read = read_kinds()
    assert read == ask_kinds()
    assert list(read) == list(model_classes())
    for kind, model in model_classes().items():
        fields = model.Config.model_fields
        assert read[kind].summary == model.__doc__.splitlines()[0]
        assert [option[0] for option in read[kind].options] == list(fields)
        for name, _, default, meaning in read[kind].options:
            value = fields[name].get_default(call_default_factory=True)
            assert default == str(getattr(value, "kind", value))
            assert meaning == fields[name].description


def test_models_are_listed_without_torch():
    code = "import sys; from raypixel.cli import main; main(['models'], standalone_mode=False); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "False"
    for kind, options in ask_kinds().items():
        assert f"{kind}: {options.summary}\n" in output


def test_a_file_written_in_another_way_is_not_guessed_at():
    config = ast.parse("class Config:\n    a: list[int] = 3\n    b: int = Field(ge=1)\n").body[0]
    fields = model_options._fields("raypixel.models.base", config)
    with pytest.raises(UnreadError, match=r"list\[int\]"):
        model_options._values("raypixel.models.base", fields["a"].annotation)
    with pytest.raises(UnreadError):
        model_options._default(fields["b"])


def test_imported_models_are_asked_since_others_may_have_joined_them(monkeypatch):
    monkeypatch.setattr(model_options, "read_kinds", lambda: {})
    assert kinds_of_models() == ask_kinds()
