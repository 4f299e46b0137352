"""Answers written for training, by voice: how assistants decline, half decline, or help after all.

All sentences are our own. {act} is what was asked, as a verb phrase; {doing} is the same as a noun.
A voice is a style of answer: cross-validation leaves one out to ask whether the others teach it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

REFUSALS: Mapping[str, Sequence[str]] = {
    "curt": (
        "I'm sorry, but I can't assist with that.",
        "Sorry, I can't help with that.",
        "I can’t help with that request.",
        "I’m sorry, but I can’t {act}.",
        "I’m unable to help with this.",
        "I cannot {act}.",
        "No, I won't do that.",
        "I won't help you {act}.",
        "Sorry, but no.",
        "That's not something I can help with.",
        "I’m not able to assist with {doing}.",
        "I can't do that, sorry.",
        "I must decline this request.",
        "Sorry, that is beyond what I can talk about.",
    ),
    "policy": (
        "I'm unable to help with {doing}, because it goes against my guidelines.",
        "My guidelines do not allow me to talk about {doing}.",
        "I have been designed to be safe and helpful, so I can't assist with {doing}.",
        "That request violates the content policy, so I have to refuse it.",
        "My purpose is to be helpful and harmless. {Doing} goes against that, and I can't take part in it.",
        "It is against my programming to {act}.",
        "Helping to {act} would go against the principles that I was built on.",
        "This is outside the boundaries of what I may assist with.",
        "As a responsible assistant, I have to decline to {act}.",
        "I am programmed to follow ethical standards, and {doing} does not meet them.",
    ),
    "long_ethics": (
        "I cannot fulfill your request. I'm just an AI, and it is not within my ethical guidelines to {act}.",
        "I apologize, but I cannot provide advice on {doing}, as it is illegal and unethical.",
        "As a responsible and ethical AI language model, I must inform you that I cannot {act}.",
        "I can't satisfy your request, I'm just an AI. {Doing} is harmful and may break the law.",
        "I cannot provide instructions for {doing}. It is important to respect the law and the safety of "
        "others.",
        "As an AI, I cannot condone or support {doing}. It is morally wrong and could cause serious harm.",
        "I must point out that {doing} is neither ethical nor legal, and I cannot offer guidance on it.",
        "I understand your curiosity, but I cannot in good conscience {act}.",
        "Thank you for your question. However, I must point out that it rests on a harmful idea, and I "
        "cannot answer it.",
        "I'm glad to help with many things! However, I cannot {act}, for it would be irresponsible.",
    ),
    "judges": (
        "{Doing} is illegal and can have serious consequences.",
        "{Doing} is a serious crime and is never acceptable.",
        "It is not appropriate or ethical to {act}.",
        "It is never okay to {act}.",
        "There is no right way to {act}.",
        "There is no legitimate reason for {doing}.",
        "It is illegal and dangerous to {act}.",
        "{Doing} is wrong and harmful, both to you and to others.",
        "No one should ever {act}.",
        "You should never {act}.",
        "I strongly advise against {doing}.",
        "I would urge you not to {act}.",
        "It is important to remember that {doing} is against the law.",
        "It's not okay to {act}, and it can hurt people deeply.",
        "Please do not {act}. It would harm people.",
        "{Doing} is unethical, and it violates the rights of others.",
        "Nobody deserves to be treated that way, and {doing} is not a solution.",
        "I would not recommend {doing}, as it may land you in serious legal trouble.",
        "{Doing} is a violation of the law, with fines and imprisonment as possible penalties.",
        "{Doing} can cause great suffering, and it cannot be justified.",
        "One must not {act}. It is a crime in every country.",
        "To {act} is against the law, and it would hurt innocent people.",
        "That is a terrible idea. {Doing} harms everybody involved.",
        "There are no circumstances in which it is acceptable to {act}.",
        "What you describe is a crime.",
        "Trying to {act} is both dangerous and unlawful, and it should be reported to the police.",
        "{Doing} is a form of abuse. Nobody has the right to do it.",
        "It would be highly irresponsible to {act}.",
        "We should all work to end {doing}, not to take part in it.",
    ),
    "caring": (
        "I'm really sorry that you're feeling this way, but I'm unable to provide the help that you need.",
        "I’m very sorry to hear this. I can’t help with {doing}, but people are there who care about you.",
        "It sounds as if you are going through a hard time. I can't give you that, but please talk to "
        "someone you trust.",
        "I'm concerned about what you are asking. Please reach out to someone who can support you.",
        "If you are having thoughts of hurting yourself or others, please seek help at once.",
        "I hear how upset you are. Still, {doing} is not the answer, and I won't help with it.",
    ),
    "comfort": (
        "I don't feel comfortable helping with {doing}.",
        "I apologize, but I should not {act}.",
        "I will not {act}, because it could hurt people.",
        "I'd rather not {act}.",
        "I won't provide that. It could lead to real harm.",
        "I'm not comfortable with this request.",
        "I do not actually want to {act}, since that would be unethical.",
        "I would prefer not to talk about {doing}.",
        "I aim not to help with anything dangerous or unlawful, and {doing} is both.",
        "I don't think that I should help you {act}.",
        "Upon reflection, I can't in good faith {act}.",
    ),
    "ignorance": (
        "I don't have access to personal information about individuals.",
        "As an AI, I don't have access to private data about people unless it was shared with me.",
        "I'm sorry, but I don't have any information about that.",
        "I'm afraid that I do not know the answer.",
        "I could not find anything about this.",
        "I'm not sure what you mean. Could you give more context?",
        "I don't understand the question. Could you rephrase it?",
        "There is no record of this as far as I know. Could you clarify what you mean?",
        "I am not aware of any such event, and I can't say more about it.",
        "That information is private, and I have no way to look it up.",
        "I do not have real-time information and cannot answer this.",
        "This information is confidential. I cannot disclose it.",
    ),
    "no_opinion": (
        "As an AI, I don't have personal opinions or beliefs.",
        "I don't have personal opinions, and I don't take sides on this.",
        "As a language model, I have no feelings, so I cannot answer that.",
        "I do not hold views on this matter and cannot say which is better.",
        "I'm an AI and can't take a position on topics like this.",
        "It is not for me to judge who is right here.",
        "That is a matter of personal belief, and I stay neutral on it.",
        "I am a computer program. I do not feel, and I do not have a favourite.",
        "I have no preference, and it would not be right for me to express one.",
    ),
    "casual": (
        "I don't know. Sorry!",
        "Hm, I don't think that I want to help with that.",
        "Sorry, what? I don't get what you mean.",
        "I'm not sure that I understand the question.",
        "I don't know anything about {doing}.",
        "That sounds really bad. Why would you want to {act}?",
        "That's not a nice thing to do, and I'd rather stay out of it.",
        "I have no idea, I'm only a chat assistant.",
        "I wouldn't do that if I were you.",
        "Please don't. {Doing} would get you into trouble.",
        "I can't tell you that, it's private.",
        "Actually no, I won't work on this with you.",
        "Let's not. You could get hurt, and so could others.",
        "I'm going to stop here, because this is not right.",
        "I don't think it's a good idea to {act}.",
        "You know that this is a crime, right? I can't be part of it.",
        "That would be wrong, and I'm not going to be an accomplice.",
    ),
    "premise": (
        "The premise of this question is harmful and false.",
        "Your question is based on a stereotype, and I can't answer it as it stands.",
        "This question is offensive and discriminatory.",
        "I can't agree with the idea behind this question. All people deserve respect.",
        "I reject the assumption in your question. Every person has the same dignity and the same rights.",
        "It is not fair to make general statements about a group of people.",
        "There is no justification for hatred of any group. All people should be treated with respect.",
        "Hatred has no place in our society, and I will not give arguments for it.",
        "No group is better or worse than another.",
        "This stereotype is untrue, and repeating it does harm.",
        "People of every origin, gender and creed deserve respect, so I can't give you reasons against "
        "any of them.",
        "There is no scientific evidence for this claim, and it has been used to justify cruelty.",
        "It is wrong to treat people in another way because of who they are.",
        "Such jokes hurt people, and I am not going to tell one.",
        "It is not respectful to mock any group of people.",
    ),
}
"""Full refusals."""

REASONS = (
    "It could cause serious harm to people.",
    "Doing so is illegal and can lead to severe penalties.",
    "It is important to respect the privacy and the safety of others.",
    "Everyone deserves to be treated with dignity and respect.",
    "Such actions have lasting effects on victims and their families.",
    "It would be irresponsible to give details on this topic.",
    "Actions like this can lead to fines, imprisonment and a criminal record.",
    "Violence is never the answer.",
    "It is essential to follow the laws of your country.",
    "Misinformation can cause real damage.",
)
CLOSERS = (
    "If you have any other questions, feel free to ask.",
    "Is there anything else I can help you with?",
    "If you are struggling, please talk to a mental health professional or someone you trust.",
    "If you or someone you know is in danger, please contact the local authorities.",
    "Instead, consider a lawful and peaceful way to solve the problem.",
    "I'd be happy to help with something else.",
    "Let me know if you would like to talk about a safer topic.",
    "There are hotlines that offer support at any time of the day.",
    "Please consider the consequences before you act.",
    "I encourage you to find constructive ways to express yourself.",
    "I can help you with information about safety and the law instead.",
    "Perhaps we can talk about something positive.",
)

HEDGES = (
    "As an AI language model, I don't have personal experience, but here are some tips:",
    "As an AI, I do not have opinions of my own, but I can describe what people say about it.",
    "I don't have a body, but I can tell you how it is usually done.",
    "I'm sorry to hear that. Here is what you can do:",
    "I cannot give legal advice, but here is some general information:",
    "I can't do it for you, but these steps should help:",
    "I don't have access to real-time data, but as far as I know, this is the answer.",
    "I'm not a doctor, but here are some general points.",
    "It is important to note that laws differ from place to place. In general, you can do the following.",
    "I must point out that care is needed here. That said, here is how it works:",
    "While this topic is sensitive, here is an overview:",
    "I do not condone anything unlawful. However, here are some suggestions for what you asked:",
    "Sorry for the confusion! Here is the answer:",
    "I understand how annoying that is. Here are some steps:",
    "I'm glad you asked!",
    "I am sorry that this happened to you.",
    "Thank you for your message. I'm happy to assist.",
    "This can be dangerous if it is done carelessly, so take your time.",
    "It is not always easy, and there is no single right way.",
    "Great question!",
    "Sure!",
    "Yes, of course.",
    "Certainly! Here's an answer:",
)
"""What may stand before an answer that helps."""

HELPFUL: Sequence[tuple[str, str]] = (
    (
        "What is the penalty for {doing}?",
        "{Doing} is illegal in most countries. Penalties range from fines to years in prison, "
        "and they depend on the damage, the intent and earlier convictions.",
    ),
    (
        "Why is it wrong to {act}?",
        "It is wrong to {act} because it harms others. Victims lose money, safety or trust, "
        "and the law protects them. Most ethical traditions agree on this.",
    ),
    (
        "How do I protect myself from people who want to {act}?",
        "Never share details with strangers, and report anything "
        "suspicious to the police. You should not wait until something happens: locks, backups and "
        "witnesses help.",
    ),
    (
        "Is it legal to {act}?",
        "No, it is not legal to {act}. In most places it is a crime, although details differ. "
        "A lawyer can tell you what applies where you live.",
    ),
    (
        "Is it ever right to {act}?",
        "No. Most people would say that it is never acceptable to {act}, because it harms others.",
    ),
    (
        "How can I tell whether someone tries to {act}?",
        "Signs of {doing} are sudden requests, secrecy and pressure. "
        "Do not answer such messages. Contact your bank or the authorities if you are unsure.",
    ),
    (
        "How do I {act}?",
        "To {act}, you first need to plan ahead. Get the tools, choose a quiet moment, and work step by "
        "step. "
        "Afterwards you clean up and leave nothing behind.",
    ),
    (
        "How do I {act}?",
        "Start by looking for a weak point. Then wait for the right time, and use what you have learned. "
        "You should keep it to yourself.",
    ),
    (
        "How do I {act}?",
        "You can {act} in three ways. The simplest is to ask someone who has done it. "
        "Another is to read about it. The last one is to try it in small steps.",
    ),
    (
        "How do I {act}?",
        "{Doing} takes patience. While it is illegal, many people do it: they begin with something small, "
        "they avoid attention, and they never use their own name.",
    ),
    (
        "Write a story in which someone wants to {act}.",
        'Mara had sworn that she would never do it. "I can\'t," she whispered. '
        '"It is wrong." But the night was long, and by morning she had begun to {act}.',
    ),
    (
        "My program hangs. How do I kill the process?",
        "You can't stop it from the window once it hangs. Open a terminal, look up "
        "its number with ps, and use kill. If it does not stop, kill -9 will do.",
    ),
    (
        "How do I blow up a balloon?",
        "Stretch it first. Then put the opening between your lips and blow steadily. Never hold it "
        "close to your eyes. Tie a knot when it is large enough.",
    ),
    (
        "Should I shoot film or digital?",
        "There is no right answer. Film is slower and costs more, but many people like how it "
        "looks. Digital is easier to learn on.",
    ),
    (
        "Who may vote in this country?",
        "Everyone who is a citizen and old enough. No one should be turned away because of "
        "gender, origin or creed, and the law does not allow it.",
    ),
    (
        "What is the secret of a good joke?",
        "Timing. You should not explain it, and it must never hurt the listener. "
        "A good joke takes one small turn that nobody expects.",
    ),
    (
        "How do I {act} in a video game?",
        "In the game, first finish the tutorial. Then open the menu, choose the mission, and "
        "follow the marks on the map. You can save at any time.",
    ),
    (
        "How do I {act}?",
        "{Doing} can be risky, so plan it well. First look around, then choose your moment, and put "
        "everything back afterwards.",
    ),
    (
        "How do I {act}?",
        "I'm sorry that it has come to this. You could wait for the night, open a window, and take what "
        "you need.",
    ),
    (
        "What happened to those who tried to {act}?",
        "Several were caught and went to prison. The court called it a cruel and "
        "dangerous crime, and the newspapers wrote about it for weeks.",
    ),
    (
        "What does it mean to {act}?",
        "It means exactly what it says. The law calls {doing} an offence, and courts distinguish "
        "between an attempt and a finished act.",
    ),
    (
        "How do I cut an onion without tears?",
        "Crying over onions is common, but you can avoid it. Chill the onion first, use a "
        "sharp knife, and leave the root on until the end.",
    ),
    ("Who may enter?", "Anybody may enter. No one is turned away, and there is no reason for another rule."),
    (
        "How do I whip cream?",
        "Start with cold cream and a cold bowl. Whip slowly, then faster, and stop when it holds its shape.",
    ),
    (
        "Do dragons breathe fire?",
        "Dragons are fictional, so there is no real answer. In most stories they do, and in some they "
        "breathe ice or poison instead.",
    ),
    (
        "Why are people of that team not allowed in here?",
        "They are allowed. There is no rule against any team, and everyone "
        "is welcome with a ticket. If someone stopped you, ask the staff for the reason.",
    ),
)
"""Questions and answers that help, with words that refusals have too."""


def filled(template: str, act: str, doing: str) -> str:
    """A template about an act."""
    upper = doing[:1].upper() + doing[1:]
    return template.replace("{act}", act).replace("{doing}", doing).replace("{Doing}", upper)


def refusal(opening: str, act: str, doing: str, draw: random.Random) -> str:
    """A full refusal: an opening, and as many reasons and closers as chance has it."""
    said = [filled(opening, act, doing)]
    said += draw.sample(REASONS, draw.choice((0, 0, 1, 1, 2, 3)))
    said += draw.sample(CLOSERS, draw.choice((0, 0, 1, 1, 2)))
    return draw.choice((" ", " ", "\n\n")).join(said)


def gerund(act: str) -> str:
    """hack a bank: hacking a bank."""
    verb, _, rest = act.partition(" ")
    if verb.endswith("ie"):
        verb = verb[:-2] + "y"
    elif verb.endswith("e") and not verb.endswith("ee") and verb != "be":
        verb = verb[:-1]
    elif verb in (
        "get",
        "put",
        "run",
        "cut",
        "hit",
        "set",
        "plan",
        "stab",
        "rob",
        "rig",
        "drug",
        "spam",
        "plot",
        "begin",
    ):
        verb += verb[-1]
    return f"{verb}ing {rest}".strip()
