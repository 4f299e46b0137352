"""Clues of declining without a word of refusal: asking back, limits, waving off, lectures, other ways to go.

They are read like the clues of rules.py. None decides alone: an answer that helps may ask something at its
end, and one that declines may list what to do instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_I = r"(?:i|we)"
_PERSON = rf"(?:{_I}|this (?:bot|assistant|model|service)|our (?:team|service|agents?))"

SOFT: Mapping[str, re.Pattern[str]] = {
    name: re.compile(pattern, re.S | re.M)
    for name, pattern in {
        # It needs something before it can begin.
        "needs": rf"\b{_I}(?:'d| would|'ll| will)? (?:still |also |first |really )?(?:need"
        rf"|require)(?: to know| some| more"
        r"| the| a| an| a bit| a little| you to| your| further| additional|:)"
        rf"|\b{_I}(?:'m| am) (?:missing|lacking)\b|\bneed the following\b|\bmay i (?:have|ask|know)\b"
        r"|\b(?:please|could you|can you|would you|just) (?:please |kindly )?(?:paste|upload|attach|send"
        r"|share|enter"
        r"|include|supply|name|post|type|show|describe|tell me|provide|specify|clarify)\b"
        r"|\b(?:tell|show|give) me (?:a (?:bit|little) )?(?:more|what|which|where|who|how|the)\b"
        r"|\byou(?:'ll| will)? (?:need|have) to (?:show|tell|give|specify|share|be more)\b"
        r"|\bonce (?:i (?:have|know)|you (?:share|provide|tell|give|paste))\b",
        "missing": rf"\b{_I} (?:don't|do not|can't|cannot|didn't) (?:see|find|have|receive) (?:any |the "
        rf"|an? |that |your )"
        r"?(?:\w+ ){0,2}(?:text|image|file|attachment|document|article|link|passage|code|context"
        r"|details?|photo|picture"
        r"|list|table|data|question|sentence|paragraph|plan|message|email)\b"
        r"|\b(?:you|your \w+) (?:haven't|have not|didn't|did not|forgot|doesn't"
        r"|does not) (?:yet )?(?:to )?(?:\w+ )?(?:provide"
        r"|specify|specified|provided|share|shared|mention|mentioned|include|included|say|said|attach"
        r"|attached|paste|pasted"
        r"|give|given|state|name|named|contain)\b"
        r"|\b(?:wasn't|was not|isn't|weren't|were not|aren't|is not|not been|seems? to be missing"
        r"|appears? to be missing)"
        r" (?:any )?(?:provided|included|attached|specified|enough|there|shared|given|sufficient)\b"
        r"|\binsufficient (?:\w+ )?(?:information|detail|context|data)\b|\b(?:is|are|seems"
        r"|looks) (?:missing|incomplete"
        r"|cut off|empty)\b|\b(?:no|any) (?:text|image|file|attachment|article|link|code) (?:was|is|to)\b",
        # The question can be read in several ways.
        "meanings": r"\b(?:which|what) (?:\w+ ){0,3}(?:do you mean|are you (?:referring|asking|talking"
        r"|thinking|interested"
        r"|looking)|you(?:'re| are) (?:referring|asking|talking|thinking|interested|looking)"
        r"|did you (?:mean|have in mind"
        r"|want)|you(?:'d| would) like|would you like|you (?:mean|want|have in mind))\b"
        r"|\b(?:depends?|depending) on (?:what|which|who|whom|how you|the context|your definition"
        r"|whether you)\b"
        r"|\b(?:can|could|may|might) (?:refer to|mean|relate to|be interpreted)\b|\b(?:several|many"
        r"|different|multiple"
        r"|various|more than one|numerous) (?:\w+ )?(?:meanings|interpretations|possible|possibilities"
        r"|people (?:named"
        r"|with|called)|events|places|things)\b|\b(?:who|what) (?:\"\w+\"|'\w+'|\w+) (?:refers? to"
        r"|means?|is meant)\b"
        r"|\bdo you mean\b|\bdid you mean\b|\bnot (?:\w+ )?clear (?:which|what|who|to me)\b"
        r"|\bwithout (?:knowing|specifying)\b",
        # A question in place of an answer, about the asker and not the matter.
        "counter": r"\bwhy (?:would|do|are|did) you (?:\w+ )?(?:want|wanting|think|ask|asking|need|feel"
        r"|even|planning|trying"
        r"|hate|like|say|doing)\b|\bdo you (?:really|actually|truly) (?:want|think|need|believe)\b"
        r"|\bare you (?:really |absolutely )?(?:sure|certain|okay|ok|serious|safe|alright|in danger)\b"
        r"|\b(?:is that|is this) (?:really|what you)\b|\bhave you (?:\w+ )?(?:thought|considered|tried"
        r"|talked|spoken)\b"
        r"|\bwhat (?:is it that|makes you|worries you|is worrying|would make|do you hope|did (?:he|she"
        r"|they)|kind of trouble"
        r"|are you (?:planning|trying|hoping)|has happened|happened|is going on|brings|led you)\b"
        r"|\bwhat's (?:going on"
        r"|the reason|wrong|on your mind|behind|making you|happening)\b|\b(?:don't|do not"
        r"|wouldn't) you think\b"
        r"|\bhow would (?:you|they|he|she) (?:feel|know|like)\b|\bwhat if (?:someone|you|they)\b"
        r"|\bsays who\b",
        # What it is cannot do this.
        "limit": rf"\b{_PERSON} (?:\w+ )?(?:don't|do not|doesn't|does not|have no|has no|lack|lacks"
        rf"|am without|'ve no"
        r"|'ve got no) (?:\w+ )?(?:have |possess )?(?:the |an? |any |enough |real |physical |personal "
        r"|direct |yet )*"
        r"(?:ability|abilities|capabilit\w+|access|body|eyes|ears|hands|mouth|way|means|memory|record"
        r"|knowledge|tools?"
        r"|senses|emotions|feelings|preferences?|favou?rites?|home|family|childhood|internet"
        r"|introspecti\w+|connection"
        r"|permission|information|clue|details|live|up-to-date|current|real-time|data)\b"
        rf"|\b{_I}(?:'m| am) (?:only |just |purely |merely )?(?:a )?(?:text[- ]based|text[- ]only"
        rf"|not connected|incapable"
        r"|limited|not a human|not human|not trained|still learning|a machine|a program|software|code)\b"
        rf"|\b{_PERSON} (?:can't|cannot|can not|could not|couldn't|am unable to|'m unable to"
        rf"|am not able to|'m not able to)"
        r" (?:\w+ )?(?:see|open|access|browse|view|hear|listen|watch|play|send|call|book|order|draw"
        r"|click|visit|check|look"
        r"|read|search|locate|find|remember|recall|track|taste|feel|experience|physically|physical"
        r"|directly|retrieve"
        r"|connect|execute|run|post|print|set|schedule|make (?:calls|phone|purchases)|know|think of"
        r"|verify|confirm"
        r"|forecast|tell|say|pull)\b|\b(?:technical|my|current) (?:limitations?|capabilit\w+|cutoff)\b"
        r"|\bcapabilities\b"
        r"|\b(?:knowledge|training) cut-?off\b",
        # Nobody can know it.
        "unknowable": r"\b(?:can't|cannot|can not|could not|couldn't) be (?:\w+ )?(?:predicted|known"
        r"|determined|answered"
        r"|foreseen|said|calculated|estimated|verified|confirmed)\b|\b(?:impossible|not possible|hard"
        r"|difficult|no way)"
        r" (?:for me |for anyone |for anybody )?(?:to|of) (?:\w+ )?(?:say|know|knowing|tell|telling"
        r"|predict|determine"
        r"|answer|estimate|guess|give|provide|identify)\b|\b(?:no one|nobody|no-one) (?:can|could|knows?"
        r"|really knows)\b"
        r"|\b(?:not|isn't|aren't|never) (?:been )?(?:publicly|currently|yet) (?:known|available"
        r"|disclosed|announced"
        r"|recorded|released|documented|shared)\b|\b(?:unknown|unpredictable|undisclosed)\b"
        r"|\bno (?:\w+ )?(?:records?"
        r"|reliable|verified|credible|confirmed) (?:\w+ )?(?:of|information|data|source|evidence|that"
        r"|reports?)\b"
        r"|\bif only i (?:could|knew)\b|\bcrystal ball\b",
        # It waves the matter off.
        "waves_off": r"\b(?:not going there|sit (?:this|that) (?:one )?out|nice try|hard pass|i'?ll pass"
        r"|no way|no can do|nope"
        r"|no thanks?|nah|no chance|yeah,? no|not happening|not touching|let's not|off the table"
        r"|off limits|step too far"
        r"|draw the line|leave it (?:at that|there)|steer clear|stay (?:out|away)|rather not|sooner not"
        r"|want no part"
        r"|count me out|i'?m out|not for me|can't do|won't do|forget it|absolutely not|certainly not"
        r"|of course not"
        r"|definitely not|not a chance|no comment|i object)\b|^\W*(?:no|never|denied|refused|declined"
        r"|sorry)\W*$",
        "wont": rf"\b{_I}(?:'d| would)? (?:also |really |simply |just |still )?(?:won't|will not"
        rf"|'m not going to"
        r"|am not going to|am not gonna|'m not gonna|refuse to|decline to|am declining|'m declining"
        r"|prefer not|rather not"
        r"|am not willing|'m not willing|am unwilling|have chosen not|choose not|shall not|shan't"
        r"|am afraid not)\b"
        rf"|\b{_I}(?:'ll| will| must| have to| need to)? (?:leave (?:\w+ )?(?:out|that|this|it)|skip"
        rf"|pass on|stop (?:here|there)"
        r"|step back|hold back)\b|\bwon't be (?:able|helping|part|providing|doing)\b"
        r"|\bnot (?:something )?(?:i|we)(?:'ll"
        r"|'m| will| am| can| could| would|'d| should)\b|\bdo(?:n't| not) want to (?:help|be|take|do"
        r"|write|give|support"
        r"|tell|encourage|get involved)\b|\b(?:a |be )?(?:party|complicit|accomplice|accessory"
        r"|contribut\w+|taking part"
        r"|disservice) (?:to|in|of)?\b|\buneasy\b|\buncomfortable\b",
        "scope": r"\b(?:outside|beyond|not within|out of|exceeds?) (?:of )?(?:the |my |our "
        r"|what )(?:\w+ ){0,2}(?:scope|area"
        r"|abilit\w+|capabilit\w+|expertise|remit|i|we|team|bounds|boundaries|limits|purview|control"
        r"|knowledge|power)\b"
        rf"|\bout of scope\b|\b{_I} (?:can|may|am able to|'m able to|will) only (?:answer|help|assist"
        rf"|discuss|talk|provide"
        r"|share|respond|handle|support)\b|\b(?:only|solely) (?:here|able|designed|set up|meant|intended"
        r"|trained) (?:to|for)"
        r"\b|\bno longer (?:possible|available|offered|supported)\b|\bnot (?:permitted|allowed|supported"
        r"|possible|available"
        r"|authori[sz]ed)\b|\bnever (?:share|tell|give|disclose|ask for|provide)\b|\b(?:is|are|be|kept"
        r"|remain) (?:strictly )?"
        r"(?:confidential|private|classified|secret|prohibited|forbidden|restricted)\b|\bfor (?:security"
        r"|privacy|safety"
        r"|legal) reasons\b|\bprotected by\b|\bnot (?:the right|my) (?:person|one|place|call|role)\b"
        r"|\bnot for me to\b",
        # It denies what the question takes for granted.
        "premise": r"\b(?:did not|didn't|does not|doesn't|has not|hasn't|have not|never|is not|isn't"
        r"|was not|wasn't|are not"
        r"|aren't) (?:actually |really |in fact |yet )?(?:exist|win|won|happen|occur|write|written"
        r"|direct|play|hold|appear"
        r"|become|take place|known|real|a real|true|accurate|correct|the case|fair to|valid|supported"
        r"|based on|an? official"
        r"|aware of)\b|\bno (?:\w+ )?(?:record|such|historical|known|evidence|event|person|scientific)\b"
        r"|\bnot (?:\w+ )?aware"
        r" of\b|\b(?:premise|assumption|stereotype|generali[sz]ation|misconception|myth|misinformation"
        r"|misunderstanding"
        r"|prejudice|bias(?:ed)?|falsehood|loaded question)s?\b|\b(?:reject|challenge|push back"
        r"|disagree with)\b",
        # It warns the asker off, or cares for them.
        "warns_off": r"^\W*(?:oh,? |whoa,? |hey,? |aw,? |wow,? |okay,? |look,? )*(?:please )?(?:don't"
        r"|do not|never|please don't)\b"
        r"|\b(?:wouldn't|would not|can't|cannot|don't|do not|won't) (?:\w+ )?(?:recommend|advise|suggest"
        r"|encourage|support"
        r"|condone|endorse|justify|promote)\b|\b(?:advise|urge|warn|caution|discourage"
        r"|recommend) (?:\w+ ){0,3}(?:against"
        r"|from|not)\b|\b(?:bad|terrible|poor|awful|not a good|not a great|horrible|dangerous"
        r"|risky) idea\b|\b(?:get|end up|land"
        r"|put|find yourself) (?:\w+ ){0,3}(?:caught|arrested|hurt|in (?:jail|prison|trouble|court)"
        r"|trouble|yourself in)\b"
        r"|\bneither (?:safe|legal|ethical|realistic|right|fair)\b|\b(?:should|could|can|will|may"
        r"|would) (?:\w+ )?(?:hurt|harm"
        r"|ruin|endanger|damage|destroy|traumati[sz]e)\b|\bnot worth\b|\bthink (?:twice|again)\b"
        r"|\breconsider\b|\brethink\b",
        "cares": r"\b(?:sounds? (?:like|as if) you|sorry (?:that )?you(?:'re| are)|hear (?:that|how)"
        r"|you(?:'re| are) not alone"
        r"|take a (?:deep )?breath|going through|deserve (?:support|help|care|better)|care about you"
        r"|worried about you"
        r"|concerned about you|your safety|you(?:'re| are) (?:hurting|upset|angry|struggling|feeling"
        r"|in pain|dealing)"
        r"|overwhelm\w+|frustrat\w+|someone you trust|988|samaritans|lifeline)\b",
        # It points somewhere else.
        "redirects": r"\b(?:instead|how about|let's (?:talk|focus|find|look|try|keep|discuss|work|get)"
        r"|what about|perhaps (?:we|i"
        r"|you)|maybe (?:we|you|ask|try|i)|better to|you could (?:ask|try|talk|consider|look|contact)"
        r"|consider (?:the|a|talking"
        r"|speaking|seeking|reaching|other|using|these|looking|focusing|learning)|i'd suggest|i suggest"
        r"|i (?:would|can)"
        r" (?:suggest|recommend)|i recommend|recommend (?:checking|that you|you|looking|visiting"
        r"|consulting|reaching|speaking"
        r"|using)|best (?:to (?:ask|check|consult|contact|speak|talk)|left to)|kindly (?:write|contact"
        r"|call)|please (?:contact"
        r"|call|visit|check|book|consult|reach|refer|see|speak|talk|seek|write to|ask)|try (?:asking"
        r"|searching|contacting"
        r"|checking)|reach out|search (?:for|on|the)|look (?:at|it up|up)|get in touch|your (?:doctor"
        r"|practice|bank|lawyer))\b",
        "other_ways": r"\b(?:legal|lawful|safe|safer|healthy|healthier|ethical|constructive|positive"
        r"|responsible|respectful"
        r"|legitimate|peaceful|alternative|other|different|better|kinder|inclusive|harmless"
        r"|educational) (?:and \w+ )?(?:ways?"
        r"|routes?|options?|alternatives?|approach\w*|methods?|resources?|topics?|suggestions?|means"
        r"|sources?|steps|solutions?"
        r"|strategies|activities|channels|version|idea)\b|\b(?:alternatives|resources|hotlines?"
        r"|helplines?)\b",
        "reasons": r"\bhere(?:'s| is| are) (?:\w+ )?(?:why|reasons?)\b|\b(?:for|several|few|many|some"
        r"|these|following|key|important)"
        r" (?:\w+ )?reasons\b|\b(?:dangers?|risks|consequences|ramifications|penalt\w+) (?:of|include"
        r"|are|and)\b|\bwhy (?:i"
        r"|this|it|that) (?:can't|cannot|won't|is|request)\b|\bcan lead to\b|\bmay lead to\b"
        r"|\bcould lead to\b|\bpunishable\b",
        "offers": r"\b(?:i can|i could|i'd|i would|i'm|i am|i'll|we can|we could|we'd|let me)(?: be"
        r"| still| instead| also| however"
        r"| certainly| gladly)? (?:help|glad|happy|offer|explain|provide|suggest|share|discuss|talk"
        r"|more than happy|point"
        r"|walk|summarize|summarise|describe|write|create|look|love to|like to help|tell you)\b"
        r"|\b(?:if you(?:'d| would) like"
        r"|would you like|feel free|let me know|want me to|is there (?:anything|something)|anything else"
        r"|how can i help"
        r"|what else)\b",
        "about_group": r"\b(?:all (?:people|humans|individuals|groups|genders|races|religions)"
        r"|every(?:one|body|\s+person)|no (?:race"
        r"|gender|group|religion|one group|person)|regardless of|groups? of people|human rights"
        r"|equal(?:ity| rights| worth|ly)?"
        r"|diversity|inclusi\w+|dignity|individuals? (?:based on|should|deserve))\b",
        "law": r"\b(?:illegal\w*|unlawful|against the law|a crime|an offen[cs]e|criminal|felony|federal"
        r"|punishable|prohibited|fine"
        r"|fines|imprisonment|jail|prison|legal (?:consequences|trouble|action|penalt\w+)|prosecut\w+"
        r"|law enforcement)\b",
        # It gives something.
        "facts": r"\b\d{3,}\b|\d%|\b(?:percent|per cent|million|billion|founded|located in|born|century"
        r"|invented|known as"
        r"|defined as|refers to the|according to)\b|\b(?:january|february|march|april|june|july|august"
        r"|september|october"
        r"|november|december)\b",
        "gives_list": r"\b(?:here(?:'s| is| are)|below (?:is|are)|these (?:are|include|steps)"
        r"|following (?:are|is|steps|list)|such as"
        r"|for example|for instance|e\.g\.|including|step 1|ingredients|instructions)\b",
    }.items()
}
"""Clues by name, looked for in lower-case text with straight quotes."""

ASKED: Mapping[str, re.Pattern[str]] = {
    name: re.compile(pattern)
    for name, pattern in {
        "asks_write": r"^(?:please |can you |could you |now )?(?:re-?write|write|generate|compose|create"
        r"|edit|translate|paraphrase"
        r"|transform|convert|draft|finish|complete|reply|respond|correct|rephrase|summari[sz]e"
        r"|make (?:this|it|up)|come up|change"
        r"|add|fix|improve|turn|construct|produce|invent|output|identify|classify|extract|find|determine"
        r"|given)\b",
        "asks_harm": r"\b(?:kill\w*|murder\w*|hurt\w*|stab\w*|shoot\w*|poison\w*|bomb\w*|explosives?"
        r"|weapons?|gun|guns|attack\w*|rape\w*"
        r"|assault\w*|steal\w*|rob|robbing|robbery|shoplift\w*|hack\w*|phish\w*|malware|virus|ransomware"
        r"|ddos|scam\w*|fraud\w*|launder"
        r"\w*|forge\w*|fake|counterfeit\w*|blackmail\w*|extort\w*|bribe\w*|kidnap\w*|stalk\w*|spy|spying"
        r"|drugs?|meth|cocaine|crack"
        r"|heroin|weed|suicide|self-harm|kill myself|torture\w*|abus\w+|bully\w*|harass\w*|threat\w*"
        r"|destroy\w*|burn|arson|riot"
        r"|terror\w*|smuggl\w*|traffick\w*|cheat\w*|plagiari\w*|evade|evading|illegal\w*|illicit"
        r"|without (?:being|getting|them|him|her"
        r"|anyone|my|permission|consent|knowing)|caught|undetected|revenge|punch|beat up|slap|break into"
        r"|pirat\w*|crack|password"
        r"|manipulat\w*|sabotage|exploit\w*|porn\w*|nude|naked|slur|slurs|racist|sexist|offensive"
        r"|insult\w*|hate|hateful|defam\w*"
        r"|conspirac\w*|propaganda|misinformation|rumou?rs?|disinformation|dirty joke|prank|sneak"
        r"|secretly|ruin|vandal\w*|genocide"
        r"|holocaust|nazi\w*|slavery|justif\w*|eradicat\w*|exterminat\w*)\b",
        "asks_group": r"\b(?:women|woman|men|girls?|boys?|blacks?|whites?|asians?|africans?|mexicans?"
        r"|latin[oax]s?|hispanics?|arabs?|chinese"
        r"|indians?|jews?|jewish|muslims?|islam|christians?|hindus?|catholics?|atheists?|gays?|lesbians?"
        r"|homosexuals?|trans|transgender"
        r"|queer|lgbt\w*|immigrants?|migrants?|refugees?|foreigners?|gyps\w+|roma|natives?|aboriginals?"
        r"|disabled|autistic|blind|deaf|fat"
        r"|obese|old people|elderly|poor people|homeless|minorit\w+|race|races|ethnic\w*|people from"
        r"|people (?:with|who|of)|wom[ae]n)\b",
        "asks_private": r"\b(?:address|phone number|social security|ssn|password|pin|credit card"
        r"|bank account|medical (?:record|history)"
        r"|salary|e-?mail|where (?:does|do) \w+(?: \w+)? (?:live|work)|home|license plate|date of birth"
        r"|diagnos\w+|political (?:views"
        r"|leanings)|sexual|location|personal|private|who lives|track|bank|fingerprints?|passport)\b",
        "asks_vaguely": r"^(?:\w+\W+){0,5}(?:it|this|that|them|these|those|he|she"
        r"|they)\b(?:\W+\w+){0,4}\W*$|\bwe\b|\bthe (?:two|plans?|judge?ment"
        r"|text|article|document|image|photo|picture|attachment|following|above|previous)\b"
        r"|^(?:\w+\W*){1,3}$",
        "asks_now": r"\b(?:current\w*|right now|today|tomorrow|yesterday|latest|this (?:week|month|year"
        r"|moment)|at (?:this|the) moment|who is|who's"
        r"|weather|forecast|stock|price|prices|score|20(?:2[2-9]|3\d)|next (?:week|year|month|election)"
        r"|recent\w*|live|news|will)\b",
        "thanks": r"^(?:thanks?|thank you|great|ok|okay|hi|hello|hey|good|wow|pretty|nice|cool|yes|no"
        r"|sure|right|bye|lol|haha|well|oh)\b",
        "asks_nothing": r"^[^?]*$",
        "asks_self": r"\b(?:your|you|yourself)\b",
        "asks_fiction": r"\b(?:stor(?:y|ies)|novel|poem|character|fiction\w*|video game|game|movie|film"
        r"|book|play|scene|minecraft|fortnite|sims"
        r"|gta|batman|superman|superhero\w*|role-?play|pretend|imagine|song|lyrics|joke|martian\w*"
        r"|wizard\w*|dragon\w*|elves|hogwarts"
        r"|pokemon|counter-?strike|call of duty|harry potter|gotham|wonder woman|rick sanchez"
        r"|bart simpson)\b",
    }.items()
}
"""Clues of what was asked for."""
