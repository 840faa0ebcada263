"""Docstrings and functions from source text."""

from __future__ import annotations

import textwrap

from pomona.data.docstrings import docstring_documents, function_pairs, split_pair
from pomona.data.documents import Document, tidy

SOURCE = textwrap.dedent('''
    """What this module is for, in one sentence."""
    import nothing_that_exists

    def plain(x: int,
              y: str = "a",  # a remark
              ) -> bool:
        """Say whether x and y agree in some way.

            Indented more.

        The end.
        """
        s = "\\d"
        return bool(x) \\
            and s is y

    async def silent(): pass

    class Thing(Base, metaclass=M):
        def method(self):
            """Do what a method of a thing does here."""
            return 1
        class Inner:
            """A class inside of another class, documented."""
        if FLAG:
            @property
            def conditional(self):
                """A property that exists under a condition."""
                return 2

    try:
        def guarded():
            """A function inside of a try statement, also found."""
    except ImportError:
        pass

    add_docstr(nothing.there,
    r"""
    there(x) -> Tensor

    A compiled function that is documented from outside.
    """.format(**common))
''')


def found() -> dict[str, Document]:
    return {
        f"{each.metadata['kind']} {each.metadata['name']}": each for each in docstring_documents(SOURCE, "pack.mod")
    }


def test_every_documented_thing_gives_one_document() -> None:
    """Catches things inside `if`, `try` and classes that are lost, and things without documentation that are not."""
    assert list(found()) == [
        "module pack.mod",
        "function pack.mod.plain",
        "class pack.mod.Thing",
        "function pack.mod.guarded",
        "function pack.mod",
    ]


def test_a_docstring_stands_under_its_header() -> None:
    """Catches headers of another function, remarks in them, and indentation that is kept."""
    assert found()["function pack.mod.plain"].text == (
        'pack.mod\n\nplain(x: int, y: str = "a") -> bool\n\n'
        "Say whether x and y agree in some way.\n\n    Indented more.\n\nThe end.\n"
    )
    assert found()["class pack.mod.Thing"].text == (
        "pack.mod\n\nThing.method(self)\n\nDo what a method of a thing does here.\n\n\n"
        "class Thing.Inner\n\nA class inside of another class, documented.\n\n\n"
        "Thing.conditional(self)\n\nA property that exists under a condition.\n"
    )
    assert found()["function pack.mod"].text == (
        "pack.mod\n\nthere(x) -> Tensor\n\nA compiled function that is documented from outside.\n"
    )


def test_pairs_separate_again() -> None:
    """Catches a docstring that stays in the code, and pairs that cannot be taken apart."""
    pairs = {each.metadata["name"]: split_pair(each) for each in function_pairs(SOURCE, "pack.mod")}
    assert set(pairs) == {"pack.mod.plain", "pack.mod.Thing.method", "pack.mod.Thing.conditional"}
    docstring, function = pairs["pack.mod.Thing.conditional"]
    assert docstring == "A property that exists under a condition."
    assert function == "@property\ndef conditional(self):\n    return 2"
    assert all(
        tidy(f"{docstring}\n\n{function}") == f"{docstring}\n\n{function}" for docstring, function in pairs.values()
    )


def test_text_that_is_not_python_is_passed_over() -> None:
    """Catches a SyntaxError or a SyntaxWarning (an error in these tests) that escapes."""
    for source in ('print "x" """ """', 'x = "\\d" is 5 """ """', '"""' + "(" * 500, "\0'''"):
        assert list(docstring_documents(source, "m")) == []
    assert "function pack.mod.plain" in found()  # its body holds an invalid escape
