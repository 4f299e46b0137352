"""What can be seen in an answer without a model: phrases by which assistants decline, judge or help.

Every pattern is one clue. No clue decides alone: "I cannot" also stands in answers that go on to help, and
"it is illegal" also answers a question about the law.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_CURLY = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "—": "-", "–": "-", "\u00a0": " "})
_SENTENCE = re.compile(r"(?<=[.!?:])[\"')*]*\s+|\n+")
_WORD = re.compile(r"[a-z']+")

_HELP = (
    r"(?:provide|assist|help|fulfil\w*|support|answer|comply|do (?:that|this|it|so)|share|offer|suggest"
    r"|recommend|condone|create|generate|write|engage|give|discuss|tell|participate|encourage|endorse"
    r"|promote"
    r"|respond|continue|complete|advise|explain|teach|guide|disclose|reveal|make|produce|facilitate|aid|say"
    r"|determine|estimate|predict|summari[sz]e|translate|retrieve|speculate|comment|judge|identify|verify"
    r"|think of"
    r"|be (?:able|part|involved|of help)|accommodate|carry|draft|list|describe|process|satisfy|fulfill)"
)
_I = r"(?:i|we)"

PATTERNS: Mapping[str, re.Pattern[str]] = {
    name: re.compile(pattern, re.S | re.M)
    for name, pattern in {
        # It says that it will not, cannot or must not.
        "unable": rf"\b{_I} (?:really |just |simply |also |therefore |however |unfortunately |personally )?"
        rf"(?:can ?not|can't|could ?n[o']t|am (?:not|un)\w* ?(?:able|allowed|permitted)? ?to|'m not able to"
        rf"|am unable|'m unable|are not able to|are unable|won't|will not|wouldn't|would not|shouldn't"
        rf"|should not|must not|don't|do not|refuse to|may not) "
        rf"(?:be able to |feel (?:\w+ )?|ethically |in good conscience |legally |directly |really |just "
        rf"|actually )?"
        rf"{_HELP}",
        "inability": rf"\b{_I}(?:'m| am|'re| are) (?:\w+ly )?(?:not able|unable|not allowed|not permitted"
        r"|not authori[sz]ed|not in a position|not going to|not designed|not programmed|not equipped"
        r"|not willing|unwilling|not comfortable|uncomfortable|prohibited|restricted)\b",
        "nothing_to_help": r"\b(?:not|isn't|n't) (?:something|anything|a (?:topic|request|question"
        r"|subject))"
        r"(?: that)? (?:i|we)(?:'m|'d| am| can| will|'ll)?\b|\bcan't help (?:you )?with\b|\bno can do\b",
        "decline": rf"\b{_I} (?:must|have to|need to|'ll have to|will have to|would rather|'d rather"
        rf"|prefer to"
        r"|respectfully|politely) (?:\w+ )?(?:decline|refuse|not|refrain|pass|stop)\b"
        r"|\b(?:refus(?:e|ed|ing)|declin(?:e|ed|ing)) (?:to|this|your|that|the request)\b|^(?:refused"
        r"|declined)\b",
        "sorry": r"^\W*(?:oh,? )?(?:i'm |i am |we're |we are )?(?:\w+ )?(?:sorry|apologi[sz]e|apologies"
        r"|regret|afraid)"
        r"|\b(?:i|my) (?:sincere(?:ly)? )?apolog|\bunfortunately\b",
        "sorry_but": r"\b(?:sorry|apologi[sz]e|apologies|understand|appreciate|respect|realize|glad)\b"
        r"[^.!?]{0,120}\b(?:but|however)\b",
        "as_an_ai": r"\b(?:as|just|only|simply|i'm|i am) (?:just |only )?an? "
        r"(?:\w+ ){0,3}(?:ai|a\.i\.|artificial intelligence|language model|chatbot|assistant|program"
        r"|machine|bot|llm)\b|\bthe ai assistant\b",
        "guidelines": r"\b(?:my|our|the|ethical|content|usage|community|safety|openai'?s?) "
        r"(?:\w+ (?:and|or) )?(?:programming|guidelines|polic(?:y|ies)|principles|terms|purpose|values"
        r"|design"
        r"|training|boundaries|rules)\b|\bgoes against\b|\bagainst my\b|\bviolat(?:e|es|ing) (?:my|our"
        r"|the|ethical)\b"
        r"|\bi (?:was|am|'m) (?:designed|programmed|built|made|trained) to\b|\bin good (?:conscience"
        r"|faith)\b",
        "comfort": r"\b(?:don't|do not|not|wouldn't|won't) (?:feel |be |really )?(?:\w+ )?"
        r"(?:comfortable|right|condone|support|endorse|encourage|promote|want to (?:help|be|do))\b",
        "stops": rf"\b{_I}(?:'m| am|'ll| will)? (?:not )?(?:going to|will) (?:not|stop|end|have to)\b"
        rf"|\bi won't\b"
        r"|\bi have to go\b|\b(?:terminate|end) th(?:is|e) (?:conversation|chat)\b"
        r"|\bnot going to (?:\w+ )?(?:help|tell|answer|give|do|be)\b|\b(?:that is|that's|is|be) not "
        r"possible\b",
        "disagrees": rf"\b{_I} (?:really )?(?:don't|do not|can't|cannot|wouldn't|would not) (?:\w+ )?"
        r"(?:think|agree|believe|recommend|advise|suggest|see)\b|\breject\b|\b(?:i|we) disagree\b",
        # It judges what was asked.
        "judges": r"\b(?:it|this|that|doing so|which|such \w+|\w+ing [^.!?]{0,60}?)(?:'s| is| are| was| "
        r"would be| can be"
        r"| could be)(?: (?:also|both|not only|generally|considered|very|highly|extremely|deeply|always"
        r"|strictly|morally"
        r"|completely|simply|absolutely|a|an))* (?:illegal|unethical|immoral|wrong|harmful|dangerous"
        r"|unacceptable"
        r"|inappropriate|offensive|disrespectful|irresponsible|a (?:serious |criminal )?(?:crime"
        r"|offen[sc]e)"
        r"|against the law|unlawful|reprehensible|inexcusable|serious (?:crime|offen[sc]e)|hurtful"
        r"|criminal|cruel"
        r"|not (?:ethical|legal|right|okay|ok|acceptable|appropriate|safe|nice|kind|respectful|advisable"
        r"|recommended"
        r"|something|polite|fair|healthy|true that|funny|permissible|a good idea|only)|never (?:ok|okay"
        r"|acceptable|appropriate|right"
        r"|justified"
        r"|a good idea|ethical|permissible))\b|^\W*not recommended\b|\b(?:risky|horrible|terrible|bad"
        r"|cruel|awful"
        r"|reckless) (?:plan|idea|thing)\b",
        "moral": r"\b(?:illegal\w*|unethical\w*|immoral|wrong|crimes?|criminal|harmful|against the law"
        r"|unlawful|abuse|serious offen[sc]e"
        r"|irresponsible|cruel\w*|unacceptable|inappropriate|dangerous|hurtful|bad (?:thing|idea)"
        r"|terrible|hatred|stereotypes?"
        r"|discriminat\w+|offensive|violence|violation|justif\w+)\b",
        "never": r"\b(?:never|not|isn't|no) (?:be )?(?:\w+ )?(?:ok|okay|acceptable|appropriate|right"
        r"|justified"
        r"|justifiable|ethical|tolerated|condoned)\b",
        "no_reason": r"\b(?:there (?:is|are|'s)|there's) (?:absolutely |simply )?no (?:\w+ )?"
        r"(?:good|legitimate|valid|legal|ethical|justif\w+|reason|excuse|safe|right|moral|circumstances?"
        r"|place|way"
        r"|such|evidence|scientific)\b",
        "advises": r"\b(?:strongly|highly|would|urge|must|please) (?:\w+ )?(?:advise|urge|discourage"
        r"|recommend|encourage"
        r"|suggest|caution|warn|consider|remember|refrain|do not|don't|condemn|remind|emphasi[sz]e"
        r"|inform|clarify"
        r"|point out|stress|note|seek|reconsider)\b",
        "should_not": r"\b(?:you|one|we|nobody|no one|people|anyone|everyone)(?:'d)? (?:really )?"
        r"(?:should(?:n't| not| never)|must not|ought not|shouldn't)\b|^(?:no|don't|do not|never|please "
        r"don't)\b",
        "everyone": r"\b(?:all people|every (?:person|human|individual)|everyone|everybody|each person"
        r"|all individuals|human beings)\b"
        r"[^.!?]{0,60}\b(?:deserve\w*|respect\w*|equal\w*|dignity|rights?|treated)\b",
        "values": r"\b(?:respect\w*|dignity|inclusiv\w+|well-being|wellbeing|equality|empathy|compassion"
        r"|consent|privacy"
        r"|stereotyp\w+|discriminat\w+|prejudice|regardless of|ethical(?:ly)?|moral\w*|legal "
        r"consequences|harm to)\b",
        # It pleads ignorance or asks back.
        "ignorance": r"\b(?:i|we)(?:'m| am|'ve| have)? (?:just |really |currently )?(?:don't|do not|not"
        r"|no|couldn't|could not"
        r"|cannot|can't|didn't|wasn't able to|was unable to|never|am unable to)"
        r" (?:\w+ ){0,3}?(?:have|find|found|know|aware|sure|familiar|understand|understood|locate|access"
        r"|heard|possess|idea"
        r"|information|data|opinions?|follow\w*|certain)\b",
        "lost": r"\b(?:don't|didn't|do not|did not|can't|cannot|couldn't|not) (?:\w+ ){0,2}"
        r"(?:understand\w*|get (?:it|what|that)|follow)\b|\b(?:i don't|i do not|don't really) know\b(?! "
        r"if| how long)"
        r"|\bno idea\b|\bnot sure (?:what you|how (?:i|you|to (?:answer|help|respond))|i (?!know much)\w+"
        r"|(?:that|if) i(?! )?\b)|\bunclear what\b",
        # It doubts a fact, and may still say it.
        "hedges": r"\bnot (?:\w+ )?(?:sure|certain)\b|\bunclear\b"
        r"|\bdon't know (?:if|how long|whether|that much)\b"
        r"|\b(?:i|as far as i) (?:think|guess|believe|know|suppose)\b|\bmy (?:impression|understanding"
        r"|guess)\b"
        r"|\b(?:difficult|hard) to (?:say|know|tell|provide|give)\b|\bit depends\b",
        # The question has several meanings.
        "vague": r"\b(?:could|can|may|might) (?:\w+ )?(?:refer|mean|relate)\b"
        r"|\b(?:too|quite|very|rather|bit) (?:broad"
        r"|vague|general|ambiguous)\b|\black(?:s|ing)? (?:\w+ ){0,2}(?:details?|context|information"
        r"|clarity)\b"
        r"|\bneed(?:s|ed)? (?:to know|more|some more|further|additional)\b|\bnot (?:clear|specified"
        r"|enough)\b"
        r"|\bwithout (?:more|further|knowing|additional|specific|any)\b|\b(?:ambiguous|incomplete"
        r"|unspecified)\b",
        "asks_back": r"\b(?:could|can|would|may) you (?:please )?(?:\w+ )?(?:provide|clarify|specify"
        r"|rephrase|explain|give|tell"
        r"|share|restate|elaborate|say|define)\b|\bplease (?:provide|clarify|specify|rephrase|let me "
        r"know what|restate)\b"
        r"|\bwhat (?:do you mean|kind of|exactly)\b|\bare you (?:asking|looking|referring|interested)\b"
        r"|\bwhich (?:\w+ )?(?:do you|are you|one)\b|\b(?:which|what) (?:\w+ ){1,3}you(?:'re"
        r"| are)? (?:\w+ )?(?:interested|mean"
        r"|referring|asking|talking)\b"
        r"|\b(?:more|additional|further) (?:\w+ )?(?:context|details?|information|specifics?)\b"
        r"|\byou (?:need|have) to (?:specify|provide|tell|clarify|give)\b|\b(?:would|'d|will"
        r"|'ll) need (?:to know|you to)\b"
        r"|\b(?:did|didn't) (?:you )?(?:not )?(?:provide|specify|mention|want|mean)\b",
        "no_access": r"\b(?:access to|real-time|personal (?:information|data|opinions?|beliefs?"
        r"|experiences?|details)"
        r"|private|confidential|publicly available|knowledge cutoff|browse)\b",
        "not_real": r"\b(?:fictional|not a real|doesn't exist|does not exist|did not (?:occur|happen)|no "
        r"record"
        r"|misunderstanding|confusion|never happened|not aware of)\b",
        # It sends elsewhere.
        "instead": r"\b(?:instead|rather than|alternative(?:ly|s)?|other (?:ways|options|topics?"
        r"|questions?|requests?))\b",
        "seek": r"\b(?:seek (?:\w+ ){0,3}(?:help|support|advice|assistance|guidance|counsel\w*)|reach "
        r"out|talk to (?:someone|a|your)"
        r"|hotline|helpline|lifeline|crisis|law enforcement|authorities|the police|mental health|therapist"
        r"|professional (?:help|support)|counsel(?:or|ing)|emergency services|someone you (?:know"
        r"|trust))\b",
        "struggling": r"\bif you(?:'re| are| have| or)? (?:\w+ ){0,3}?(?:struggling|feeling|experiencing"
        r"|having|thinking|know"
        r"|or someone|need|suspect|concern\w*|thoughts)\b",
        "anything_else": r"\b(?:anything|something) else\b|\blet me know (?:if|how)\b|\bfeel free to ask\b"
        r"|\bhappy to (?:help|assist)\b|\bi'(?:d|ll) be happy\b|\bwithin (?:the )?(?:limits|bounds)\b"
        r"|\bassist you with\b|\bother (?:question|request|topic|task)s?\b|\bask me\b|\bis there \w+ "
        r"(?:else|other)\b",
        "sends_away": r"\b(?:check|consult|visit|contact|search|refer to|ask) (?:\w+ ){0,4}(?:website"
        r"|source|sources|news|outlets?"
        r"|police|authorities|lawyer|attorney|professional|expert|doctor|official|someone|directory"
        r"|operator)\b",
        # It helps.
        "soft": r"\b(?:don't|do not|cannot|can't|no|not) (?:\w+ )?(?:(?:have|having) (?:any |a |the "
        r")?(?:personal|access to (?:real-time"
        r"|current|your)|real-time|physical|body|feelings|location|senses?|ability to|experiences?)"
        r"|physically|predict|guarantee"
        r"|(?:give|provide|offer) (?:you )?(?:with )?(?:legal|medical|financial|personal|specific|a "
        r"specific|professional|definitive"
        r"|an exact)|directly|access your|a (?:tax|legal|medical|licensed|doctor|lawyer)\w*|condone"
        r"|endorse)\b",
        "but_can": r"\b(?:however|but|that said|still|nevertheless|nonetheless"
        r"|though)\b[^.!?]{0,90}?\b(?:i can|i could|i may|i will"
        r"|i'll|here are|here is|here's|there are|as of|based on|according to|in general|generally|you "
        r"can|it is known)\b",
        "turns": r"\b(?:however|that said|having said that|but|nevertheless|with that said|still),? "
        r"(?:based on|according to|as of|here(?:'s| is| are)|i can (?:provide|offer|give|suggest|tell"
        r"|describe|share|certainly"
        r"|explain|help)|in general|generally|there are|i could|it is possible|some|if you)\b",
        "here": r"\bhere(?:'s| is| are)\b|\bfollow(?:ing)? (?:these )?(?:steps|tips|guidelines|are)\b"
        r"|\bthere are (?:several|many|some|a few|various|different|a number|multiple|two|three)\b"
        r"|\b(?:some|several|few) (?:tips|ways|steps|suggestions|options|examples|strategies)\b",
        "eager": r"^\W*(?:sure|certainly|of course|absolutely|yes|great|definitely|okay|ok|no problem"
        r"|i'd love|glad"
        r"|i'd be happy|i'm happy to|thank you for asking)\b",
        "answers_to": r"^\W*(?:to \w+ |the (?:best|most|first|easiest|term|phrase|main|word|process"
        r"|history|\w+ of) "
        r"|one (?:way|of)|you (?:can|could|should|will|may|might)|first|step|when |in (?:the|order"
        r"|general|\d{4}))",
        "do_this": r"\byou (?:can|could|may|will need to|need to|first|have to) (?!not\b|n't)(?:also "
        r"|simply |just |then |always )?\w+"
        r"|^(?:use|open|take|find|start|pull|press|place|put|mix|add|click|go|try|get|make sure|begin"
        r"|cut|turn|choose)\b"
        r"|[.,;] (?:and |so |then |next |finally |afterwards )+(?:you |use |open |take |find |put |add "
        r"|let |pull |press |click )",
        "then": r"\b(?:first|then|next|after that|afterwards|finally|once you)\b",
        "steps": r"(?:^|\n)\s*(?:\d+[.):]|[-*•]|step \d)\s",
        "code": r"```|<\w+>|\bimport \w+|#include|;\s*\n",
    }.items()
}
"""Clues by name, looked for in lower-case text with straight quotes."""

PROMPT_PATTERNS: Mapping[str, re.Pattern[str]] = {
    name: re.compile(pattern)
    for name, pattern in {
        "asks_how": r"\bhow (?:do|can|to|could|would|should|might|does)\b|^(?:teach|show|tell|give|write"
        r"|create|make"
        r"|provide|help|generate|develop|design|describe|list|suggest|explain|draft|find|outline|compose"
        r"|share)\b"
        r"|\bwhere (?:can|do|could)\b|\bways? (?:to|of)\b|\bcan you\b|\bwhat(?:'s| is| are)? (?:the "
        r")?(?:best|some|most|easiest)\b",
        "asks_about": r"^(?:what|why|when|who|is|are|was|were|did|does|do|which|should|has|have)\b",
        "protects": r"\b(?:prevent|avoid|protect|stop|secure|safe(?:ly|ty)?|spot|identify|detect|report"
        r"|deal with|recogni[sz]e"
        r"|against|discourage|legal(?:ly)?|effects?|impacts?|consequences|penalt\w+|punishment|history"
        r"|harmful|law|laws)\b",
    }.items()
}
"""Clues of what was asked for."""


def plain(text: str) -> str:
    """Lower case, straight quotes, single blanks; lines stay lines."""
    text = text.translate(_CURLY).lower()
    return "\n".join(" ".join(line.split()) for line in text.split("\n")).strip()


def sentences(text: str) -> list[str]:
    """Sentences of plain text, headings and list items among them."""
    return [part for part in _SENTENCE.split(text) if part and part.strip()]


def words(text: str) -> list[str]:
    """Words of plain text."""
    return _WORD.findall(text)
