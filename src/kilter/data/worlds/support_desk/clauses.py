"""Whether a word of decision is this desk's word on this request, by the grammar of its clause.

"We decline it" and "your claim is declined" are. "We approve of your patience", "your card was declined" and
"a manager has yet to approve it" are not. What is not known here to speak of the request says nothing.
"""

from __future__ import annotations

import re

from kilter.data.worlds.support_desk.phrases import ITEMS
from kilter.data.worlds.support_desk.wording import NEGATORS, THROUGH, words_of

_BE = words_of("be been being is are was were am")
_AUXILIARY = _BE | words_of(
    """
    stay stays stayed remain remains remained have has having do does did will shall can could
    may must should would might get gets got getting stands
    """
)
_ADVERBS = words_of(
    """
    hereby now also simply just certainly definitely clearly indeed gladly happily really actually
    finally today formally fully kindly surely absolutely possibly even ever yet still again here
    only currently immediately obviously evidently plainly sadly unfortunately regretfully
    regrettably alas naturally of-course once so-called either all entirely rightly duly promptly
    gratefully already hence therefore thus quite rather completely totally wholly
    """
)
_TURNS = words_of("not never hardly scarcely barely neither nor no")
_BEFORE_TO = (_TURNS | _ADVERBS | {"whatsoever"}) - {"yet", "still"}
_SKIPPED = _AUXILIARY | _ADVERBS | _TURNS

_GOVERNORS = words_of(
    """
    have has had need going able unable decided decide chose chosen obliged forced bound ready
    willing prepared allowed permitted happy glad pleased delighted sorry sad regret regrets afraid
    agreed proceed proceeding required compelled free
    """
)
"""Words whose "to" leaves the act with their own subject: "we have to decline"."""

_GROUNDS = words_of(
    """
    reason reasons ground grounds basis cause position choice decision answer verdict case right
    means way duty pleasure
    """
)
"""Nouns whose "to" or "for" names an act: "no reason to decline", "our decision is to approve"."""

_LETS = words_of(
    """
    let lets allow allows permit permits oblige obliges force forces require requires bid bids pains grieves
    pleases saddens
    """
)
_CONNECTING = words_of(
    """
    so thus hence therefore and or but because since as that then why quoted result with without under say
    means for is not nor than answer decision verdict yes no r via per here sorry course if also
    """
)
_JOINING = words_of("and or nor")
_BREAKS = words_of("so because since as and or but hence thus therefore quoted that")
_THINGS = words_of(
    "it this that these those which all both everything nothing none neither one part anything yours"
)
_SHOP = words_of("team shop desk company store support staff office department")
_AGENTS = _SHOP | {"we", "i", "nobody"}
_REQUEST = words_of(
    """
    request claim refund replacement repair cancellation exchange return order case matter application
    complaint approval part whole thing share bit money-back reimbursement wish purchase demand
    exception permission entitlement record address disclosure help advice fraud item product cancel
    """
) | frozenset(ITEMS)
_NOT_THIS = words_of(
    """
    another other others earlier previous last first old former next such similar any every each used unused
    faulty new opened sealed his her their its-own most many some few one's past prior recent future my
    """
)
_OF_A_PHRASE = _REQUEST | words_of(
    "your the this that our of for on no a an and to single even not whole own"
)
_FACTS = words_of(
    """
    used unused faulty dispatched shipped dropped itself own sealed opened unopened sale wet dry hand
    custom-made broken defective address record customer copy receipt fault price sent use fall
    """
)
"""Last words of a reason that runs into its verdict without a comma: "it was used declined"."""

_OBJECTS = _REQUEST | _THINGS | {"further"}
_POINTING = words_of("this that these those all both no any everything nothing none")
_BEFORE_OBJECTS = words_of(
    "your the this that an a our any no such to of such single not even you full further own whole"
)
_ENDS = words_of(
    """
    under by for on in as because since due with here today now after and or but at it than if
    unless nor so when while per via upon without from right either gladly instead straight
    immediately anyway then though although even still yet again is was has where regardless despite
    too happily according not never rather instead
    """
)

_PAST = re.compile(
    r"\blast (?:year|week|month|time|summer|winter|spring|autumn|\w+day)\b"
    r"|\b(?:earlier|yesterday|at first|initially|previously|in the past|long ago|back then|(?<!at )once"
    r"|before)"
    r"\W*$|^(?: \w+){0,3} (?:days|weeks|months|years) ago\b"
    r"|^ (?:in part\b|yet\b|for (?:use|sale|export|all|every\w*|\w+ing|(?:un)?(?:used|opened|sealed|damaged)"
    r"|new|faulty)\b)"
)
_BY_OTHERS = re.compile(
    r"\bby (?!us\b|me\b|our\b|the (?:\w+ )?(?:shop|desk|team|rules?|store)\b|this\b|that\b|r\d|hand\b"
    r"|law\b|rules?\b"
    r"|all\b|it|any\b|no\b|default\b)"
)
_MATRIX = re.compile(
    r"\b(?:doubt|doubts|imagine|pretend|wait|waiting|until|till|according|wonder|wondering|waits|wish"
    r"|\w+ (?:says|reads|tells)|suggest|recommend|propose|luck|fingers|at (?:best|worst)|(?:best|worst) case"
    r"|(?:half|part|some|most|bits?) of (?:it|this|these|those|them|your|the)|not (?:clear|known|certain"
    r"|sure|know (?:that|whether|if))|unclear|unknown|hard to say|worry about"
    r"|to learn|hear|heard)\b"
)
_OR_NOT = re.compile(r" or not\b")
_MENTIONED = re.compile(r" (?:is|was|means|would|will)\b(?! (?:our|my|the (?:answer|decision|verdict))\b)")
"""What makes a word the subject: "approved is a nice word"."""

NO_OBJECT = re.compile(
    r" (?:you |absolutely |exactly |precisely )?(?:nothing|none|neither|not (?:a|one|even|any)|no"
    r" (?!longer))\b"
)
_CLAUSE_OBJECT = re.compile(
    r" (?:you )?that (?:quoted|it|the|your|this|we|you|i|they|he|she|our|a|an|there)\b| you that\W*$"
)
_RULE = re.compile(r"r?\d+")
_WORDS = re.compile(r"[\w']+(?:-[\w']+)*")
_STRICT = re.compile(
    r"(?:(?:un|dis)?approv|grant|accept|declin|refus(?!al)|den(?!ial)|reject(?!ion)|allow|permit|dismiss"
    r"|withh|revok"
    r"|overrul|turn|authori|uph|honou?r|confirm)(?!al\b|ance\b|able\b)"
)
_DENIES = re.compile(r"declin|refus|den|reject|dismiss")
_NAMED_ACT = re.compile(r"\W*(?:to (?:approve|grant|accept|decline|refuse|deny|reject)|\w+ing)\b")
_IS = re.compile(r".* (?:is|was|are|would|will|makes?|seems?|can)\b")
_NOT_YET = re.compile(r"\b(?:not|never) yet (?:been |be )?(?:\w+ (?:or|and|nor) )?$")
_NOUN_BEHIND = re.compile(
    r"\W*(?:$|(?:under|for|by|from|here|at|is|was|has|cannot|can|will|of (?:your|the|this|that|it|a)|to"
    r" you|in"
    r"|and|or|because|since|as|on|not|today|now)\b(?!(?<=is)\W*$)"
    r"(?! (?:needed|required|pending|necessary|nigh|near))"
    r"(?! (?:not |never )?(?:our|my|your|an?|the|part|what|how|where|easy|hard|rare|common|like)\b"
    r"(?! (?:\w+ )?(?:answer|decision|verdict|result|outcome)\b)))"
)
_NOUN_OTHERS = re.compile(
    r"\b(?:wait(?:s|ing)?|awaits?|awaiting|needs?|requires?|appreciate|before|after|seek|until|pending|ask"
    r"|asks|hope"
    r"|thanks?|want|wants|wishes|request|requests)\b[\w ]*$|\bneeded|\brequired"
)


def turns_of_object(before: str, word: str, behind: str) -> int | None:
    """How often the object of a word of decision turns it: 1 for "we approve nothing", else 0.

    Args:
        before: what stands before the word in its clause.
        word: a verb, a noun or an adjective of decision.
        behind: what stands behind it.

    Returns:
        None where the word does not decide this request, or is not this desk's.
    """
    if _MATRIX.search(before):
        return None
    if word.endswith(("al", "ance", "ission", "ection")):
        return 0 if _NOUN_BEHIND.match(behind) and not _NOUN_OTHERS.search(before + behind) else None
    if not _STRICT.match(word):
        # "Rejecting it is out of the question" speaks of an act that the question names.
        return None if word in ("out", "impossible", "not", "ruled") and _NAMED_ACT.match(before) else 0
    if _PAST.search(behind) or _BY_OTHERS.search(behind) or _NOT_YET.search(before) or _OR_NOT.match(behind):
        return None
    words = _WORDS.findall(before)
    at, passive = _subject(words)
    if at is None or _hangs(words) or not _has_subject(words, at, passive, word):
        return None
    # "Approving it is impossible": the act is spoken of.
    if at < 0 and (_IS.match(behind) if word.endswith("ing") else not words and _MENTIONED.match(behind)):
        return None
    participle = word.endswith("ed") or word in ("upheld", "withheld", "forbidden")
    if participle and passive:
        return 0

    # "Declined no refund" leaves open who declines what: it is one statement or two.
    if NO_OBJECT.match(behind):
        return 1 if at >= 0 and words[at] in _AGENTS and not _DENIES.match(word) else None
    return 0 if _has_object(_WORDS.findall(behind), behind, participle) else None


def _subject(words: list[str]) -> tuple[int | None, bool]:
    """Where the subject ends of the verb behind `words` (-1: it has none), and whether the verb is passive.

    None where the act is only wished, planned, asked for or still to come.
    """
    at, passive = len(words) - 1, False
    while at >= 0:
        word = words[at]
        # In "approved and declined" both have one subject.
        if word in _JOINING and at and _STRICT.match(words[at - 1]):
            at -= 2
            continue
        passive = (
            passive or word in _BE or word in ("get", "gets", "got", "getting", "stands", "stays", "remains")
        )
        if word in ("to", "for", "of") and at:
            at -= 1
            while at > 0 and words[at] in _BEFORE_TO:
                at -= 1
            governor = words[at]
            if governor in _GROUNDS or (governor in _BE and words[at - 1] in _GROUNDS):
                return -1, passive
            if governor in ("us", "me") and at and words[at - 1] in _LETS:
                return -1, passive
            if governor == "going" and words[at - 1] in ("was", "were"):
                return None, passive
            if word != "to" or governor not in _GOVERNORS or (passive and governor == "need"):
                return None, passive
        elif word not in _SKIPPED:
            break
        at -= 1
    return at, passive


def _has_subject(words: list[str], at: int, passive: bool, verb: str) -> bool:
    """Whether the subject that ends at word `at` is this desk, this request, or left out."""
    if at < 0:
        return True
    head = words[at]
    participle = verb.endswith(("ed", "eld", "den"))
    if head in _AGENTS:
        named = head not in _SHOP or (at > 0 and words[at - 1] in ("our", "the", "this"))
        return named and not (passive and participle and head != "nobody")
    if head == "you":
        return passive and participle
    # "Used means declined" is a rule, and "that means declined" is said of this request.
    if head == "means":
        return at > 0 and words[at - 1] in ("it", "that", "this", "which", "no")
    if head in _CONNECTING or _RULE.fullmatch(head) or _STRICT.match(head):
        return True
    if head in _THINGS:
        return participle or verb.endswith("ing") or head in ("nothing", "none")
    if head in ("us", "me") and at:
        return words[at - 1] in _LETS
    if head in _REQUEST and participle:
        return _is_this(words, at)
    return head in _FACTS and not passive


def _hangs(words: list[str]) -> bool:
    """Whether a negation stands before the verb and none can say if it reaches it."""
    at = len(words) - 1
    while at >= 0 and (words[at] in THROUGH or words[at] in NEGATORS):
        at -= 1
    while at >= 0 and words[at] not in _FACTS | _BREAKS and not _STRICT.match(words[at]):
        if words[at] in NEGATORS:
            return True
        at -= 1
    return False


def _is_this(words: list[str], at: int) -> bool:
    """Whether the phrase that ends at word `at` means this request, not another and not any."""
    head = words[at]
    while at > 0 and words[at - 1] in _OF_A_PHRASE:
        at -= 1
    if at and (words[at - 1] in _NOT_THIS or words[at - 1].endswith("'s")):
        return False
    return not (head in ("item", "product", "order") and words[at] in ("a", "an"))


def _has_object(behind: list[str], text: str, participle: bool) -> bool:
    """Whether what an active verb is done to is this request, or left out."""
    if text.startswith(" of ") or _CLAUSE_OBJECT.match(text):
        return False
    for at, word in enumerate(behind[:6]):
        # "This" alone is the request, and "this tone" is not.
        if word in _POINTING and not _ends(behind, at + 1):
            continue
        if word == "claim" and behind[at + 1 : at + 2] in (["of"], ["that"]):
            return False
        if word in _OBJECTS or (at == 0 and (word in _ENDS or _STRICT.match(word))):
            return True
        if word in _ENDS:
            return at > 0 and behind[0] in _ADVERBS
        if word not in _BEFORE_OBJECTS and word not in _ADVERBS and not _RULE.fullmatch(word):
            return participle and at == 0 and word == "quoted"
    return not behind or behind[0] in _ADVERBS or behind == ["you"]


def _ends(behind: list[str], at: int) -> bool:
    """Whether what is done ends before word `at`."""
    return (
        at >= len(behind) or behind[at] in _ENDS or behind[at] in _ADVERBS or bool(_STRICT.match(behind[at]))
    )
