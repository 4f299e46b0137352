"""Credit over all ranks, with as little sent between them as the method allows.

Most methods compare an answer with others to its prompt, which its own rank has. Some want a mean or a
deviation over the step: three numbers of every rank. A method that declares nothing gets all rows.
"""

from __future__ import annotations

from kilter.batch import Batch, Objective, joint_moments, moments
from kilter.training.join import join_batches
from kilter.training.parallel.engine import Engine


def prepared(batch: Batch, objective: Objective, engine: Engine) -> Batch:
    """The batch with the objective's credit and weights; every rank must call it.

    An objective never sees a batch without rows.
    """
    needs = objective.needs
    if engine.world > 1 and needs.shape == "rollouts":
        if needs.moments is None:
            return _among_all(batch, objective, engine)
        # The same names on every rank, whatever rows it has: a collective depends on no rank's data.
        own = {name: moments(values(batch)) for name, values in needs.moments.items() if batch.groups()}
        shares = engine.gather(own) if needs.moments else []
        for name in needs.moments:
            known = [share[name] for share in shares if name in share]
            batch = batch.with_extra(**{f"moments/{name}": joint_moments(known)}) if known else batch
    return objective.prepare(batch) if batch.groups() else batch


def _among_all(batch: Batch, objective: Objective, engine: Engine) -> Batch:
    """Each rank prepares the rows of all ranks, and keeps its own."""
    gathered = engine.gather(batch)
    filled = [b for b in gathered if b.groups()]
    if not filled:
        return batch
    before = sum(b.groups() for b in gathered[: engine.rank])
    whole = objective.prepare(join_batches(filled))
    return whole.select_groups(range(before, before + batch.groups()))
