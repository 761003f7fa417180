"""Our XML text is ElementTree's, to the byte."""

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from pipeline.export.xml_text import to_xml


def test_text_is_that_of_the_standard_library() -> None:
    """Comments, text, empty elements, depth, and every character that must be escaped."""
    root = Element("Root", version="0.3")
    root.append(ElementTree.Comment(" of <A & B> "))
    SubElement(root, "Author").text = 'A & B < C > D "E"'
    section = SubElement(root, "Section", name='<&>"\n\r\t é')
    SubElement(SubElement(section, "Row", smirks="[#6X4:1]~[#1:2]", k="1.0 * angstrom"), "Inner")
    SubElement(section, "Row")
    ours = to_xml(root)
    ElementTree.indent(root)
    assert ours == ElementTree.tostring(root, encoding="unicode")
