"""Assign: every ligand gets its parameters from the shipped model alone.

    some fifty records: standardise each -> predict what is new among them -> deliver each record

Only those fifty and the fifty before them are in memory. What the model gave a molecule is in the ledger, so
that a duplicate anywhere in the library, or the same library with other formats, is not predicted again.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from pipeline.campaign import (
    Campaign,
    deliver_record,
    each,
    end,
    in_order_of,
    leased,
    note,
    prepare_record,
    settle,
    with_note,
)
from pipeline.ledger_values import Prediction, Prepared
from pipeline.library import Record
from pipeline.outcome import Delivered, Failure
from pipeline.parametrize import attempt
from pipeline.schema import MMParameters

AT_ONCE = 50
"""records standardised before the first of them is delivered"""

Member = tuple[str, Record, Prepared]


@dataclass(kw_only=True, eq=False)
class _Molecule:
    """The records of one molecule among those at hand, and what is known of it."""

    known: Prediction | None
    members: list[Member] = field(default_factory=list)
    parameters: MMParameters | Failure | None = None
    """what the model said of it just now; None: it was not asked"""
    seconds: float = 0.0
    """that this took, its share"""

    @property
    def lacks_coords(self) -> bool:
        """Whether a record needs a conformer that nobody has made."""
        posed = all(prepared.pose is not None for _, _, prepared in self.members)
        return not posed and (self.known is None or self.known.coords is None)


@dataclass(kw_only=True, eq=False)
class _Piece:
    """Some fifty records on which we have a lease."""

    campaign: Campaign
    """that may settle them"""
    lease: contextlib.ExitStack
    n_left: int
    """records that are not delivered yet"""

    def __post_init__(self) -> None:
        self._let_go()

    def count_one(self) -> None:
        """One of them is delivered; after the last the lease is given up."""
        self.n_left -= 1
        self._let_go()

    def _let_go(self) -> None:
        if self.n_left == 0:
            self.lease.close()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ready:
    """A record that can be delivered."""

    piece: _Piece
    member: Member
    prediction: Prediction


def assign(campaign: Campaign, numbers: Iterable[int]) -> None:
    """Parametrize these records by the shipped model, and settle each; those of others are passed over.

    While the last fifty are delivered, the next are standardised and predicted.
    """
    numbers = list(numbers)
    campaign.watch.begin("assign", len(numbers))
    with (
        contextlib.ExitStack() as leases,
        contextlib.closing(
            each(campaign, "deliver", _ready(campaign, numbers, leases), _delivered, ahead=AT_ONCE)
        ) as deliveries,
    ):
        for one, ending, seconds in deliveries:
            id_, record, _ = one.member
            end(one.piece.campaign, (id_, record), ending, "deliver", seconds)
            campaign.watch.advance("assign")
            one.piece.count_one()


def _ready(campaign: Campaign, numbers: list[int], leases: contextlib.ExitStack) -> Iterator[_Ready]:
    """Standardise and predict, fifty records at a time; what fails is settled, the rest given to deliver."""
    for some in _pieces(numbers):
        lease = leases.enter_context(contextlib.ExitStack())
        held, mine = lease.enter_context(leased(campaign, some))
        by_key: dict[str, _Molecule] = {}
        for id_, record, prepared in _prepared(held, mine):
            key = prepared.ligand_key
            if key not in by_key:
                by_key[key] = _Molecule(known=campaign.ledger.prediction(key))
            by_key[key].members.append((id_, record, prepared))
        predicted = list(_predicted(held, by_key))
        piece = _Piece(campaign=held, lease=lease, n_left=len(predicted))
        for member, prediction in predicted:
            yield _Ready(piece=piece, member=member, prediction=prediction)


def _pieces(numbers: list[int]) -> Iterator[list[int]]:
    rest = iter(numbers)
    while some := list(islice(rest, AT_ONCE)):
        yield some


def _prepared(campaign: Campaign, numbers: Iterable[int]) -> Iterator[Member]:
    """Standardise; the refused are settled, the others given."""
    records = (campaign.ledger.record(number) for number in numbers)
    for (id_, record), ending, seconds in each(
        campaign, "standardise", records, lambda numbered: prepare_record(campaign.line, numbered[1])
    ):
        if isinstance(ending, Failure):
            end(campaign, (id_, record), ending, "standardise", seconds)
            campaign.watch.advance("assign")
        else:
            note(campaign, id_, "standardise", ending, seconds)
            yield id_, record, ending


def _predicted(campaign: Campaign, by_key: dict[str, _Molecule]) -> Iterator[tuple[Member, Prediction]]:
    """Predict each molecule that the ledger does not know; give its records, in no particular order."""
    lacking = [molecule for molecule in by_key.values() if molecule.known is None or molecule.lacks_coords]
    _predict(campaign, [molecule for molecule in lacking if molecule.known is None])
    for molecule, (known, problem), seconds in each(
        campaign, "predict", lacking, lambda one: _completed(campaign, one)
    ):
        first_id, _, first = molecule.members[0]
        note(campaign, first_id, "predict", problem, molecule.seconds + seconds)
        if known is not None:
            molecule.known = known
            campaign.ledger.keep_prediction(first.ligand_key, known)
        for id_, record, prepared in tuple(molecule.members):
            if problem and (known is None or prepared.pose is None):
                molecule.members.remove((id_, record, prepared))
                settle(campaign, id_, record, with_note(problem, prepared))
                campaign.watch.advance("assign")
    for molecule in by_key.values():
        for member in molecule.members:
            assert molecule.known is not None
            yield member, molecule.known


def _predict(campaign: Campaign, molecules: Sequence[_Molecule]) -> None:
    """Ask for parameters in one call; where that fails, one by one, so that each fails by its own fault."""
    if not molecules:
        return
    start = campaign.clock()
    name = molecules[0].members[0][1].name
    ligands = [molecule.members[0][2] for molecule in molecules]
    predicted = attempt(name, "predict", campaign.line.predict, ligands)
    if isinstance(predicted, Failure) and len(molecules) > 1:
        for molecule in molecules:
            _predict(campaign, [molecule])
        return
    seconds = (campaign.clock() - start) / len(molecules)
    for n, molecule in enumerate(molecules):
        molecule.parameters = predicted if isinstance(predicted, Failure) else predicted[n]
        molecule.seconds = seconds


def _completed(campaign: Campaign, molecule: _Molecule) -> tuple[Prediction | None, Failure | None]:
    """Its parameters, and a conformer where a record has no coordinates of its own; and what failed."""
    _, record, prepared = molecule.members[0]
    known = molecule.known
    if known is None:
        if isinstance(molecule.parameters, Failure):
            return None, molecule.parameters
        assert molecule.parameters is not None
        known = Prediction(parameters=molecule.parameters, coords=None)
    if not molecule.lacks_coords:
        return known, None
    coords = attempt(record.name, "conformers", campaign.line.conformer, prepared)
    if isinstance(coords, Failure):
        return known, coords
    return Prediction(parameters=known.parameters, coords=coords), None


def _delivered(one: _Ready) -> Delivered | Failure:
    """Write and read back."""
    id_, _, prepared = one.member
    coords = prepared.pose
    if coords is None:
        assert one.prediction.coords is not None
        coords = in_order_of(prepared, one.prediction.coords)
    return deliver_record(one.piece.campaign, id_, prepared, one.prediction.parameters, coords)
