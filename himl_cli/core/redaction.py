"""Masking of secrets in logs, errors and settings, and of addresses that may contain some.

Three facts decide, together: the form of a value (a token of GitHub is a secret under any name), what its name says,
and whether the value can be a secret of this kind. People choose passwords, so any value of `--password` is one.
Programs generate tokens and keys, so `--mask_token '<mask>'` and `--image_key image` are none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from himl_cli.core.patterns import lazy_pattern

MASK = "***"
DEEPEST_COMMAND = 5  # nested command lines


# Secrets by form, under any name: how they begin, and what follows. A secret begins after no letter or digit
_TOKENS = {
    # Hugging Face, GitHub, npm, Groq, Replicate, Stripe, DigitalOcean, Linear, Shopify, Kaggle, Netlify, Prefect,
    # RubyGems, SonarQube, Supabase, Typeform, Sentry, Buildkite, Jina, Roboflow, Grafana, Postman, Sourcegraph, Notion
    "hf_ api_org_ ghp_ gho_ ghu_ ghs_ ghr_ npm_ gsk_ r8_ sk_live_ sk_test_ pk_live_ pk_test_ rk_live_ rk_test_ whsec_"
    " dop_v1_ doo_v1_ dor_v1_ lin_api_ shpat_ shpss_ shpca_ shppa_ KGAT_ nfp_ pnu_ rubygems_ squ_ sqp_ sqa_ sbp_"
    " tfp_ sntryu_ bkua_ jina_ sgp_ ntn_ rdme_ CCIPAT_ tgp_v1_ pul- NRAK- LTAI AKCp": "[A-Za-z0-9]{20,}"
    r"(?!\w|\.(?:py|sh|yml)\b)",  # no name of a script or its run: hf_NAME.py, hf_NAME_1795771437_864799a7
    "wandb_v": r"\d_[A-Za-z0-9_]{20,}",
    # GitHub, Docker, LangSmith, Pinecone, PlanetScale, GitLab, Slack, OpenAI, Anthropic, Langfuse, NVIDIA, Perplexity,
    # xAI, Brevo, Atlassian, Square, Tavily, PyPI, Google, Sentry, 1Password
    "github_pat_ dckr_pat_ dckr_oat_ lsv2_pt_ lsv2_sk_ PMAK- pcsk_ glsa_ pscale_tkn_ pscale_pw_ glpat- gldt- "
    "glrt- glcbt- glptt- glft- glimt- glagent- glsoat- gloas- glffct- GR1348941 sk-proj- sk-svcacct- sk-admin- "
    "sk-ant- sk-or-v sk-lf- nvapi- xkeysib- ATATT3 ATCTT3 ATBB sq0atp- sq0csp- tvly- pypi-AgE GOCSPX- ya29. "
    "sntrys_ ops_eyJ glc_eyJ fo1_ eyJhcGlfYWRkcmVzcyI6": r"[\w-]{20,}",
    "xoxa- xoxb- xoxc- xoxd- xoxe- xoxo- xoxp- xoxr- xoxs- xoxe.": r"[\w.-]{10,}",
    "xapp-": r"\d-[\w-]{10,}",
    "sk- pplx- xai- csk-": "[A-Za-z0-9]{20,}",
    "AKIA ASIA ABIA ACCA": "[A-Z0-9]{16}(?![A-Za-z0-9])",  # Amazon
    "AIza": r"[\w-]{35}",  # Google
    "dapi": "[0-9a-f]{32}",  # Databricks
    "tskey-": r"[a-z]+-[\w-]{20,}",  # Tailscale
    "SG.": r"[\w-]{16,}\.[\w-]{16,}",  # SendGrid
    "hvs. hvb. dp.pt. dp.st.": r"[\w.-]{20,}",  # Vault, Doppler
    "dt0c01.": r"[A-Z0-9]{24}\.[A-Z0-9]{64}",  # Dynatrace
    "AGE-SECRET-KEY-": "1[A-Z0-9]{20,}",
    "-----BEGIN": r"[A-Z ]* PRIVATE KEY(?: BLOCK)?-----(?=[\s\S]{0,200}?[A-Za-z0-9+/]{32})"
    r"[\s\S]*?(?:-----END[A-Z ]*-----|\Z)",
}
# Telegram, Entra ID, HashiCorp
_OTHERS = (r"\d{8,10}:AA[\w-]{33}", r"[\w~.-]{3}\dQ~[\w~.-]{31,34}", r"\w{14}\.atlasv1\.[\w-]{60,}")
# Each of these secrets has one. Few texts do, and none of those needs the pattern, which takes milliseconds to compile
_MARKS = tuple(f"{' '.join(_TOKENS)} :AA Q~ .atlasv1.".split())
_SHORT = 10_000  # characters, up to which a search for all of them takes less
_LONG_WORD = lazy_pattern(r"[\w.~-]{15}|-----BEGIN")  # every such secret has one
_LONG_NAME = lazy_pattern(r"[A-Za-z][\w.~-]{14}")  # every such secret of one word has one
_SIGNS = bytes(ord("w" if re.match(r"[\w.~-]", chr(number)) else " ") for number in range(256))
# Secrets by what comes before them. A value of `maybe` must also look like one
_PREFIXED = lazy_pattern(
    r"""(?P<keep>
        [?&](?:sig|sv_sig|token|access_token|code|client_secret|(?:x-[a-z]+-)?(?:signature|credential))=  # a link
      | https://(?:hooks\.slack(?:-gov)?\.com|[\w-]+\.webhook\.office\.com|outlook\.office(?:365)?\.com/webhook\w*
          |hooks\.zapier\.com/hooks|discord(?:app)?\.com/api/webhooks|api\.telegram\.org)/      # a webhook
      | \bAuthorization\\?["']?\s*[:=]\s*\\?["']?
        (?:(?:Bearer|Basic|Digest|Token|Api-?Key|Negotiate|NTLM|OAuth|SSWS|AWS4-HMAC-SHA256)\s+|(?=[^\s"'&;\\]*\d))
      | \bcurl(?=\s)[^|&;\n]{0,200}?\s(?:-u|--(?:proxy-)?user)[\s=]+["']?[\w.@+-]+:   # a login of a command
      | \b(?:sshpass\s+|docker\s+login(?=\s)[^|&;\n]{0,100}?\s)-p\s*
      | ;\s*(?:Pwd|Password)=\{                                                      # of ODBC
      | (?P<maybe>\b(?:Bearer|Basic|wandb\s+login(?:\s+--[\w-]+){0,3})\s+|\bCookie\\?["']?:\s*[\w.-]+=)
    )(?P<secret>[^\s"'&;\\]+)""",
    re.VERBOSE | re.IGNORECASE,
)
# Each of its matches has one
_IN_PREFIXED = (
    "?",
    "&",
    "https://",
    "authorization",
    "curl",
    "sshpass",
    "docker",
    ";",
    "bearer",
    "basic",
    "wandb",
    "cookie",
)
_USER_IN_URL = lazy_pattern(r"(https?://)([^/\s'\"]+)(?=@)", re.IGNORECASE)
_PASSWORD_IN_URL = lazy_pattern(r"(://[^/\s:@]*:)([^\s\"'&;@/]+)(?=@)")
# The look-ahead runs once per word, since one for each `-eyJ` in it would take quadratic time
_JWT = lazy_pattern(r"(?<![\w-])(?=[\w-]+\.[\w-]{4,}\.)(?P<before>[\w-]*?)\beyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*")

_SERVICES = (
    r"wandb|comet|neptune|clearml|mlflow|dvc|openai|anthropic|hf|hugging_?face|aws|azure|gcp|github|gitlab|gh|git"
    r"|bitbucket|databricks|kaggle|ngc|sentry|datadog|pinecone|cohere|mistral|groq|langsmith|stripe|sendgrid|twilio"
    r"|slack|discord|telegram|pypi|npm|conda|docker|vault"
)
# Parts of all names that the patterns below match. Python compiles those when a name has one, as most commands see none
_STEM = lazy_pattern("pass|pw|pat|key|token|secret|credential|auth|sas|sig|connection|webhook|notify")
# Names of values that are secrets, in lower case with `_` between words
_EXPLICIT = rf"""(?x)passw(?:or)?d(?:s|_|$) | passphrase | passcode(?=_|$) | pwd?(?=_|$) | (?:^|_)client_?secret
      | connection_?string
      | (?:^|_)(?:db|smtp|mail|email|user|admin|root|ftp|proxy|redis|mysql|pg|postgres|mongo|my)_?pass(?=_|$)
      | (?:^|_)(?:api|access|account|private|secret|storage|encryption|signing|subscription|auth|application|app|admin
         |license|{_SERVICES})_?keys?(?=_|$)
      | (?:^|_)(?:api|access|account|auth|oauth|bearer|refresh|session|security|csrf|hub|bot|tracking|registry|deploy
         |personal|login|jwt|sas|app|admin|client|service|my|{_SERVICES})_?tokens?(?=_|$)
      | shared_?access_?(?:key|signature)"""
_BARE_NAME = lazy_pattern(r"token|pass|(?:.*_)?(?:secret|pat)")
# Names that mention secrets, but also name other things
_MENTION = r"(?:key|token|secret|credential)s?(?=_|$)|(?:^|_)(?:auth|authorization|pass|pat|sas|sig|signature)(?=_|$)"
# Last words of names of what is said about a secret or a key, and first words of what is none
_ABOUT = (
    r"(?:count|size|len|length|num|number|dim|limit|rate|dropout|id|idx|index|indice|weight|type|name|file|filename"
    r"|path|dir|folder|env|var|variable|field|column|col|prefix|suffix|format|policy|expiry|expire|ttl|mode|level|embed"
    r"|embedding|emb|layer|loss|mask|position|map|mapping|pattern|regex|separator|sep|version|order|url|uri|provider"
    r"|scheme|budget|ratio|strategy|pooling|norm|std|scale|encoding|language|required|enabled|header|label|prompt|hint"
    r"|message|timeout|lifetime)(?:e?s)?$"
    r"|^(?:num|n|max|min|include)_|(?:^|_)(?:public|pub|publishable)_?key"
)
_WEBHOOK = lazy_pattern(r"webhook|(^|_)notify$")  # names with a wholly secret address
# Values that are no secrets: switches, placeholders, references and special tokens such as <mask> and [CLS]
_NOTHING = lazy_pattern(
    r"(?i:true|false|yes|no|on|off|none|null|nil)|[01]|[\W_]*|VALUE|\$[A-Z_][A-Z0-9_]*|\$env:\w+|%\w+%"
    r"|\$[({].*[)}]|[\[<{]+[^\[\]<>{}\s]*[\]>}]+|(?:~|\.{1,2}|[A-Za-z]:)?[/\\][\w./\\ -]*|[\w.-]+/[\w./-]*\.\w{1,5}",
    re.DOTALL,
)
_EXAMPLE = lazy_pattern(
    r"(?i)(?:password|passwd|pass_?word|token|string|user(?:name)?)$|x{3}|\*{3}|\.{3}|%\(|os\.environ|env[.:]"
    r"|your|change_?me|replace|insert|example|dummy|redacted|placeholder|todo"
)
_LOGIN_PLACE = lazy_pattern(r"USER:PASSWORD|PASSWORD|TOKEN|(?:[<{$][^:@]*:?){1,2}|" + re.escape(MASK))
_PROSE = lazy_pattern(r"[A-Za-z]+,? [A-Za-z]")
_ADDRESS = lazy_pattern(r"[A-Za-z][\w+.-]*://")
_UUID = lazy_pattern(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# Pairs of letters that are frequent in words and their abbreviations
_PAIRS = (
    "th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de hi ri "
    "ro ic ne ea ra ce li ch ll be ma si om ur ca el ta la ns di fo ho pe ec pr no ct us ac ot il tr ly nc et ut "
    "ss so rs un lo wa ge ie wh ee wi em ad ol rt po we na ul ni ts mo ow pa im mi ai sh ir su id os iv ia am fi "
    "ci vi pl ig tu ev ld ry mp fe bl ab gh ty op wo sa ay ex ke fr oo av ag if ap gr od bo sp rd do uc bu ei ov "
    "by rm ep tt oc fa ef cu rn sc gi da cr cl du ga qu ue ff ba va um pp up lu go ht ru ug pi eg au ck mu br bi "
    "pu ob mm fl sk ix ze"
)
_SURE, _BARE, _MENTIONED, _HOOK = "sure", "bare", "mentioned", "webhook"
_NAMED = lazy_pattern(
    r"(?<![\w.+~-])(?P<name>[-+~\w.]+)(?P<between>\\?[\"']?[ \t]*(?::=|==?>?|:)[ \t]*"
    r"|(?P<space>[\"'],?\s+(?=[\"'])|\s+(?=\w)))"
)
_VALUE = lazy_pattern(r"(?P<open>\\?[\"']?)(?P<value>(?<=\")[^\"\\]+(?=\\?\")|(?<=')[^'\\]+(?=\\?')|[^\s\"'&;\\]+)")
_NEXT_FIELD = lazy_pattern(r"[,}\])]+$|,(?=[\w.-]+[:=])")
_ASSIGNMENT = lazy_pattern(
    r"(?P<before>(?:-e|--env(?:[-_]var)?=)?(?P<quote>[\"']?)(?P<name>[+~]{0,2}[\w.-]+)=)(?P<value>.*)", re.DOTALL
)
_WORD = lazy_pattern(r"(?:'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|[^\s])+?(?=\s|$)")


@lru_cache(maxsize=1)
def _shape() -> re.Pattern[str]:
    """The pattern for secrets by form. Python needs milliseconds to compile it."""
    heads = {"|".join(map(re.escape, starts.split())): rest for starts, rest in _TOKENS.items()}
    return re.compile(
        rf"(?<![A-Za-z0-9])(?:{'|'.join([*(f'(?:{one}){rest}' for one, rest in heads.items()), *_OTHERS])})"
    )


def has_token(content: bytes) -> bool:
    """Whether a word of *content* contains a secret by form."""
    if b"w" * 15 not in content.translate(_SIGNS):
        return False
    text = content.decode("latin-1")
    return _LONG_NAME.search(text) is not None and any(_shape().search(word) for word in text.split())


def is_placeholder(value: str) -> bool:
    """Whether *value* is none of a secret, but of an example or a reference: `<token>`, `${PASSWORD}` or `xxx`."""
    return _NOTHING.fullmatch(value) is not None or _EXAMPLE.match(value) is not None


def redact(text: str) -> str:
    """*text* with `***` for the values of signatures, keys, passwords and tokens."""
    if _LONG_WORD.search(text) and (len(text) > _SHORT or any(mark in text for mark in _MARKS)):
        text = _shape().sub(MASK, text)
    if "://" in text:
        text = _PASSWORD_IN_URL.sub(_masked_login, _USER_IN_URL.sub(_masked_login, text))
    lower = text.lower()
    if any(part in lower for part in _IN_PREFIXED):
        text = _PREFIXED.sub(_masked_value, text)
    if "eyJ" in text:
        text = _JWT.sub(rf"\g<before>{MASK}", text)
    parts, end = [], 0
    for found in _NAMED.finditer(text):
        is_option = found["name"].startswith("-")
        kind = _kind(found["name"]) if found.start() >= end and (is_option or not found["space"]) else ""
        value = _VALUE.match(text, found.end()) if kind else None
        may_be_prose = found["space"] or (kind == _BARE and ":" in found["between"])
        if value is None or (may_be_prose and _PROSE.match(text, found.end())):
            continue
        shown = value["value"]
        if not value["open"] and not _NOTHING.fullmatch(shown):
            shown = _NEXT_FIELD.split(shown, maxsplit=1)[0]
        if _is_secret(found["name"], shown):
            parts += [text[end : value.start("value")], MASK]
            end = value.start("value") + len(shown)
    return "".join([*parts, text[end:]])


def mask_arguments(arguments: Sequence[str], depth: int = DEEPEST_COMMAND) -> list[str]:
    """The arguments of a command line with secrets masked: by shape, and by name in `--name value`, `--name=value`,
    `NAME=value` and `-e NAME=value`.

    An argument that is itself a command line (`--docker_args "-e NAME=value"`) is masked as one, up to *depth* levels.
    """
    masked: list[str] = []
    name = ""
    for word in arguments:
        if name and not word.startswith("--") and _is_secret(name, word):
            # Keep the quotes of the word, so that masking a line again does not change it
            quote = word[0] if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"" else ""
            masked.append(f"{quote}{MASK}{quote}")
            name = name if re.search("[^s]s$", name) else ""  # `--api_keys A B`
        else:
            masked.append(_masked_word(word, depth))
            name = word if word.startswith("-") and "=" not in word else ""
    return masked


def masked_names(arguments: Sequence[str]) -> list[str]:
    """The options with masked values in the masked *arguments*, or a masked argument itself if it has no option."""
    pairs = [(before, word) for before, word in zip(["", *arguments], arguments, strict=False) if MASK in word]
    return [before if word == MASK and before.startswith("-") else word.partition("=")[0] for before, word in pairs]


def mask_line(line: str, depth: int = DEEPEST_COMMAND) -> str:
    """A command line as one text, masked as by `mask_arguments`. Spaces and quotes stay."""
    words = mask_arguments(_WORD.findall(line), depth)
    return redact("".join(space + word for space, word in zip(_WORD.split(line), [*words, ""], strict=True)))


def is_masked(shown: str, value: str) -> bool:
    """Whether *shown* is *value*, in full or with masked parts."""
    return re.fullmatch(".*".join(map(re.escape, shown.split(MASK))), value, re.DOTALL) is not None


def with_given(command: str, arguments: Sequence[str], given: tuple[str, Sequence[str]]) -> tuple[str, list[str]]:
    """The stored command line and arguments of a job, with those *given* in place of the ones in which secrets are
    masked. Arguments that himl added at the end stay."""
    line, words = given
    if len(words) <= len(arguments) and all(map(is_masked, arguments, words)):
        arguments = [*words, *arguments[len(words) :]]
    return line if line and is_masked(command, line) else command, [*arguments]


def mask_document(value: Any, name: str = "") -> Any:
    """*value*, made of mappings, lists and texts, with credentials masked in any text and by name. *name* is the name
    of the value. Named texts and lists of texts may be command lines."""
    if isinstance(value, str):
        return MASK if _is_secret(name, value) else _masked_word(value, DEEPEST_COMMAND) if name else redact(value)
    if isinstance(value, Mapping):
        return {key: mask_document(item, str(key)) for key, item in value.items()}
    if isinstance(value, list):
        masked = [mask_document(item, name) for item in value]
        return mask_arguments(masked) if all(isinstance(item, str) for item in value) else masked
    return value


@lru_cache(maxsize=4096)
def _kind(name: str) -> str:
    """What the *name* of a value says of it: `sure` (it is a secret), `bare` (so does a word such as `token` by
    itself), `mentioned` (it may be a token or a key, if it looks generated), `webhook`, or nothing."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+", "_", name)
    plain = split.lower().strip("_")
    if not _STEM.search(plain) or re.search(_ABOUT, plain):
        return ""
    if _WEBHOOK.search(plain):
        return _HOOK
    if re.search(_EXPLICIT, plain):
        return _SURE
    if _BARE_NAME.fullmatch(plain) or name.lower().endswith(".token"):
        return _BARE
    return _MENTIONED if re.search(_MENTION, plain) else ""


def _is_secret(name: str, value: str) -> bool:
    """Whether *value*, under this *name*, must be hidden."""
    kind, value = _kind(name), value.strip("\"'")
    if kind == _HOOK:
        return is_address(value)
    if not kind or (_NOTHING.fullmatch(value) and not _is_generated(value)) or _ADDRESS.match(value):
        return False
    if kind == _BARE:
        return not re.fullmatch(r"\d{1,3}", value)
    is_login = "auth" in name.lower() and re.fullmatch(r"[^:\s]+:\S+", value) is not None
    return kind == _SURE or is_login or _is_generated(value)


def _is_generated(value: str) -> bool:
    """Whether *value* contains a long word that no person wrote: most of its pairs of characters are rare in words."""
    if _UUID.search(value):
        return True
    for word in re.findall(r"[A-Za-z0-9]{10,}", value) if len(value) >= 16 else ():
        pairs = [first + second for first, second in pairwise(word) if not (first + second).isdigit()]
        common = sum(not re.match("[a-z][A-Z]", pair) and pair.lower() in _PAIRS for pair in pairs)
        if common < len(pairs) / 2:
            return True
    return False


def _masked_login(found: re.Match[str]) -> str:
    """An address with the login in its second group masked, unless that is a placeholder."""
    return found[1] + (found[2] if _LOGIN_PLACE.fullmatch(found[2]) else MASK)


def _masked_value(found: re.Match[str]) -> str:
    """The value after a prefix masked, if it is a secret."""
    secret = found["secret"]
    if _NOTHING.fullmatch(secret) or (found["maybe"] and not (_is_generated(secret) or _is_login(secret))):
        return found[0]
    return found["keep"] + MASK


def _is_login(secret: str) -> bool:
    """Whether *secret* is `user:password` in base64, as in the header of a request."""
    try:
        from base64 import b64decode  # imported late, as sha256 below

        user, colon, _ = b64decode(secret, validate=True).partition(b":")
    except ValueError:
        return False
    return colon == b":" and user.isascii() and user.decode("ascii").isprintable()


def _masked_word(word: str, depth: int) -> str:
    """*word* masked, with up to *depth* levels of quotes, assignments and command lines in it."""
    found = _ASSIGNMENT.fullmatch(word)
    if found is not None and _is_secret(found["name"], found["value"]):
        return f"{found['before']}{MASK}{found['quote']}"
    if depth > 0 and len(_WORD.findall(word)) > 1:
        return mask_line(word, depth - 1)
    quote = word[:1]
    if depth > 0 and quote in ("'", '"') and word.endswith(quote) and len(word) > 1:
        return f"{quote}{_masked_word(word[1:-1], depth - 1)}{quote}"
    return redact(
        found["before"] + _masked_word(found["value"], depth - 1) if found is not None and depth > 0 else word
    )


# In characters. Leaves space for additions within a file system's 255 bytes
LONGEST_FILE_NAME = 150
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
# Unchanged characters in the path of a link, besides letters and digits. No URL can contain the others
SAFE_IN_PATHS = "/%:@!$&'()*+,;=~"

_DEVICES = lazy_pattern(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[1-9¹²³])(\.|$)", re.IGNORECASE)
_BOTCHED = lazy_pattern(r"[^/]{2,}://|https?(?![\w.-])(?!:[^/\\?]*$)", re.IGNORECASE)
# Names of a signature's parts in a query, by the part with the signature itself: Azure's, Amazon's, Google's and CDNs'
_SIGNED_BY = {
    "sig": lazy_pattern(
        r"s[vsprte]|srt|spr|sig|sip|skoid|sktid|skt|ske|sks|skv|skdutid|sdd|saoid|suoid|sduoid|scid|ses"
    ),
    "signature": lazy_pattern(r"signature|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid"),
}
_SIGNING = lazy_pattern(r"x-(?:amz|goog)-.*|token|access_token")


def is_address(text: str) -> bool:
    """Whether *text* is an http or https address, rather than a path or a run."""
    return re.match(r"https?://", text.strip(), re.IGNORECASE) is not None


def may_be_signed(text: str) -> bool:
    """Whether *text* is an address with a query, which may contain a signature."""
    return is_address(text) and "?" in text


def is_botched_address(text: str) -> bool:
    """Whether *text* is an invalid or unsupported address, such as `https:/host` or `s3://bucket`. It may still contain
    a secret."""
    return not is_address(text) and _BOTCHED.match(text.strip()) is not None


def parts_of(address: str) -> SplitResult:
    """The parts of the address, empty for an invalid one."""
    try:
        parts = urlsplit(address.strip())
        parts.port  # noqa: B018  (raises for an invalid port)
    except ValueError:
        return urlsplit("")
    return parts


def shown(address: str) -> str:
    """*address* for messages and files, without user, password, query and fragment."""
    parts = parts_of(address)
    return urlunsplit((parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower(), parts.path, "", ""))


def identity(address: str) -> str:
    """A text that identifies the file at *address*, independent of its signature. Contains no secret.

    It includes a digest of the query without the known parts of signatures: `?id=3` and `?id=4` are two files. An
    unknown signature costs one more download, while a mistaken one would confuse two files.
    """
    from hashlib import sha256  # imported late, since all commands import this module

    asked = parse_qsl(parts_of(address).query, keep_blank_values=True)
    names = {name.lower() for name, _ in asked}
    signing = [_SIGNING, *(theirs for held_by, theirs in _SIGNED_BY.items() if held_by in names)]
    told = sorted(
        (name, value) for name, value in asked if not any(theirs.fullmatch(name.lower()) for theirs in signing)
    )
    digest = sha256(repr(told).encode()).hexdigest()[:16]
    return f"{shown(address)}?{digest}" if told else shown(address)


def last_name(address: str) -> str:
    """The last part of the path, decoded. Empty if there is none."""
    return unquote(parts_of(address).path.rstrip("/").rpartition("/")[2])


def safe_name(name: str) -> str:
    """*name* as a valid file name on every system, or `checkpoint` if nothing of it is valid."""
    plain = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f]', "_", name).strip().rstrip(". ").lstrip(".")
    stem, dot, ending = plain.rpartition(".")
    if len(plain) > LONGEST_FILE_NAME:
        plain = (
            f"{stem[: LONGEST_FILE_NAME - len(ending) - 1]}.{ending}"
            if dot and len(ending) < 20
            else plain[:LONGEST_FILE_NAME]
        )
    plain = plain.encode("utf-8", "replace").decode()
    return f"_{plain}" if _DEVICES.match(plain) else plain or "checkpoint"
