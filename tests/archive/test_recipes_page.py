"""docs/recipes.md: its table is made of the recipes, its example is a recipe that runs.

`python tests/archive/test_recipes_page.py` writes the table anew.
"""

import re
from pathlib import Path

from photographs import save, shard, write_table

from ssl_retina.archive import recipe

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
BEGIN = "<!-- table: made by tests/archive/test_recipes_page.py -->\n"
END = "<!-- end of table -->\n"


def made_table() -> str:
    """One row for each shipped recipe, then what is known to go wrong with each."""
    recipes = [recipe.load(name) for name in recipe.shipped_names()]
    lines = ["| recipe | for | licence | verified | labels for `probe` | page |", "|---|---|---|---|---|---|"]
    for one in recipes:
        tasks = dict.fromkeys(task for table in one.labels for task in table.tasks)
        shown = "<br>".join(f"`{task}`" for task in tasks) or "by hand"
        page = one.page if one.page == "none" else f"[page]({one.page})"
        verified = "yes" if one.verified else "no"
        cells = (f"`{one.name}`", one.title, one.licence, verified, shown, page)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    lines += ["", "### Known traps", ""]
    lines += [f"- `{one.name}`: {' '.join(one.traps)}" for one in recipes]
    return "\n".join(lines) + "\n"


def page_with(table: str) -> str:
    """The page with another table."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}{table}{END}{rest.partition(END)[2]}"


def test_the_table_is_what_the_recipes_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page_with(made_table()), (
        "docs/recipes.md is old: python tests/archive/test_recipes_page.py"
    )


def test_the_example_runs(tmp_path: Path) -> None:
    """The recipe of the page on files as it describes them."""
    example = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert example
    path = tmp_path / "clinic.yaml"
    path.write_text(example[1], encoding="utf-8")
    source = tmp_path / "source"
    names = ("screening/2015/007_L.jpg", "screening/2016/007_R.jpg", "followup/8/x.jpg")
    for number, name in enumerate((*names, "followup/8/x_thumb.jpg", "other/y.jpg")):
        save(source / name, number)
    rows = [("007_L.jpg", "0", "train"), ("007_R.jpg", "1", "train")]
    write_table(source / "screening" / "images.csv", ("file", "eye", "set"), rows)
    write_table(source / "people.csv", ("nr", "camera"), [("7", "Canon CR-2"), ("8", "Canon CR-2")])
    totals = shard(tmp_path, source, recipe=recipe.load(str(path)))
    assert (totals.written, totals.patients, totals.reasons) == (3, 2, {recipe.SKIPPED: 4})
    assert totals.remarks["eye_unknown"] == 1
    assert "of device 'Canon CR-2', a name that is written in clear" in totals.remarks


if __name__ == "__main__":
    PAGE.write_text(page_with(made_table()), encoding="utf-8")
