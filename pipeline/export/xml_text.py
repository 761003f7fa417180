"""The text of a tree of elements: what `ElementTree.indent` and `tostring` give, in a fraction of their time.

Those look at every attribute for namespaces and special characters; a force field has many attributes, and
hardly any of either.
"""

import re
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

_SPECIAL = re.compile(r'[&<>"\r\n\t]')
_ENTITIES = {'"': "&quot;", "\r": "&#13;", "\n": "&#10;", "\t": "&#09;"}


def to_xml(root: Element) -> str:
    """Write an element with all it holds, one line each, children indented by two blanks.

    An element has children or text, not both, and no namespace.
    """
    return "\n".join(_lines(root, ""))


def _lines(element: Element, margin: str) -> Iterator[str]:
    if element.tag is ElementTree.Comment:
        yield f"{margin}<!--{element.text}-->"
        return
    head = f"{margin}<{element.tag}{_attributes(element.attrib)}"
    if len(element):
        yield f"{head}>"
        for child in element:
            yield from _lines(child, f"{margin}  ")
        yield f"{margin}</{element.tag}>"
    elif element.text:
        yield f"{head}>{escape(element.text)}</{element.tag}>"
    else:
        yield f"{head} />"


def _attributes(attributes: Mapping[str, str]) -> str:
    if _SPECIAL.search("".join(attributes.values())):
        attributes = {name: escape(value, _ENTITIES) for name, value in attributes.items()}
    return "".join([f' {name}="{value}"' for name, value in attributes.items()])
