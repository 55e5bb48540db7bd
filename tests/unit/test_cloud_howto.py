"""What docs/howto/use-a-cloud-model.md tells people to write is what is read."""

import re
from pathlib import Path

import pytest

from imagen.config import load_settings
from imagen.engine.wiring import catalog_of

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "use-a-cloud-model.md"
FILES = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
PAID = {"gpt-image", "schnell"}  # those that the page says cost money


@pytest.mark.parametrize("text", FILES, ids=lambda text: text.split()[3])
def test_a_file_of_the_page_is_a_model_that_can_be_asked_for(tmp_path: Path, text: str) -> None:
    """No key is unknown, no value is wrong, and what costs money is what the page says."""
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    found = catalog_of(load_settings(home=tmp_path, environ={}))
    assert [problem.message for problem in found.problems] == []
    (name,) = (name for name, model in found.models.items() if str(tmp_path) in model.origin)
    assert found.get(name).paid is (name in PAID)


def test_another_imagen_is_asked_for_the_size_its_model_draws_at(tmp_path: Path) -> None:
    """The size is told from here: without `defaults` it would be a large picture that tiny-3d only enlarges."""
    (text,) = (text for text in FILES if "dialect: imagen" in text)
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    found = catalog_of(load_settings(home=tmp_path, environ={}))
    here, there = found.get("big-box"), found.get("tiny-3d")
    assert here.keys["model"] == there.name
    assert (here.defaults.width, here.defaults.height) == (there.defaults.width, there.defaults.height)
    assert here.defaults.steps == there.defaults.steps


def test_the_page_has_a_file_for_each_kind_of_service() -> None:
    """OpenAI, Replicate, a server of one's own, another imagen, a container."""
    assert len(FILES) == 5
