import string
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.masking import mask_arguments, mask_text
from agent.masking.names import is_secret_name

# A secret that no ordinary argument contains by chance, and that reads as no flag.
SECRETS = st.text(string.ascii_letters + string.digits + "!#$%*+./:=?@^_~-", min_size=6, max_size=40).map(
    lambda text: f"S{text}9"
)
PLAIN = st.text(string.ascii_letters + string.digits + "_", min_size=8, max_size=40).map(
    lambda text: f"S{text}9"
)
BASE64URL = st.text(string.ascii_letters + string.digits + "-_", min_size=12, max_size=60)

WITH_THE_SECRET_ANYWHERE = [
    ["app", "--password={}"],
    ["app", "--password", "{}"],
    ["app", "--db-password", "{}", "--port=80"],
    ["app", "--dbPassword={}"],
    ["app", "-password", "{}"],
    ["app", "--api-key={}"],
    ["app", "--apikey", "{}"],
    ["app", "--secret-access-key", "{}"],
    ["app", "--private-key={}"],
    ["app", "--client-secret", "{}"],
    ["app", "--credentials={}"],
    ["app", "--auth", "{}"],
    ["app", "--auth-token={}"],
    ["env", "DB_PASSWD={}", "app"],
    ["env", "GITHUB_TOKEN={}", "app"],
    ["env", "PGPASSWORD={}", "psql"],
    ["env", "AWS_SECRET_ACCESS_KEY={}", "aws"],
    ["java", "-Dspring.datasource.password={}", "-jar", "app.jar"],
    ["java", "-Djavax.net.ssl.keyStorePassword={}"],
    ["mysql", "-uroot", "-p{}", "db"],
    ["sudo", "-u", "x", "/usr/bin/mysqldump", "-p{}", "db"],
    ["sshpass", "-p", "{}", "ssh", "host"],
    ["sshpass", "-p{}", "ssh", "host"],
    ["redis-cli", "-a", "{}", "PING"],
    ["ldapsearch", "-x", "-D", "cn=admin", "-w", "{}"],
    ["docker", "login", "-u", "bob", "-p", "{}", "registry"],
    ["curl", "-u", "bob:{}", "https://host/"],
    ["curl", "-ubob:{}", "https://host/"],
    ["curl", "--user", "bob:{}", "https://host/"],
    ["curl", "--user=bob:{}", "https://host/"],
    ["curl", "-H", "Authorization: Bearer {}", "https://host/"],
    ["curl", "-H", "authorization: Basic {}", "https://host/"],
    ["curl", "-H", "Authorization: token {}", "https://host/"],
    ["curl", "-HAuthorization: Bearer {}", "https://host/"],
    ["curl", "-H", "X-Api-Key: {}", "https://host/"],
    ["curl", "-H", "Cookie: session={}; other=x", "https://host/"],
    ["openssl", "rsa", "-in", "key.pem", "-passin", "pass:{}"],
    ["keytool", "-storepass", "{}", "-list"],
    ["sh", "-c", "mysql -p{} -h db | cat"],
    ["sh", "-c", "exec app --token {} --port 80"],
    ["sh", "-c", "PGPASSWORD={} psql -h db"],
    ["sh", "-c", "PGPASSWORD='{} and more' psql -h db"],
    ["sh", "-c", 'export API_TOKEN="{}"; run'],
    ["sh", "-c", "app --password '{} with blanks' --port 80"],
    ["bash", "-lc", 'bash -c "mysql -p{} db"'],
    ["ssh", "host", "sshpass -p {} ssh other"],
    ["sh", "-c", 'curl -H "Authorization: Bearer {}" https://host'],
    ["psql", "host=db user=x password={} port=5432"],
    ["python", "-c", "connect(password='{}')"],
    ["curl", "-d", '{{"user": "bob", "password": "{}"}}', "https://host/"],
    ["sh", "-c", 'curl -d "{{\\"password\\":\\"{}\\"}}" https://host/'],
]
WITH_A_PLAIN_SECRET = [
    ["git", "clone", "https://bob:{}@host/repository.git"],
    ["git", "clone", "https://{}@host/repository.git"],
    ["app", "--database=postgres://bob:{}@db:5432/name"],
    ["app", "redis://:{}@cache:6379/0"],
    ["app", "amqp://bob:x/{}@queue/"],
    ["curl", "https://host/path?api_key={}&page=2"],
    ["curl", "https://host/path?page=2&access_token={}"],
    ["curl", "-d", "user=bob&password={}", "https://host/"],
    ["curl", "https://hooks.slack.com/services/T0000/B0000/{}"],
]


@pytest.mark.parametrize("shape", WITH_THE_SECRET_ANYWHERE, ids=" ".join)
@given(secret=SECRETS)
@example(secret="Shunter2-9")
def test_a_planted_secret_never_survives(shape: list[str], secret: str) -> None:
    masked = mask_arguments([part.format(secret) if "{" in part else part for part in shape])
    assert secret not in " ".join(masked)
    assert "***" in " ".join(masked)
    assert masked[0] == shape[0]


@pytest.mark.parametrize("shape", WITH_A_PLAIN_SECRET, ids=" ".join)
@given(secret=PLAIN)
def test_a_secret_in_a_url_or_form_never_survives_and_the_rest_stays(shape: list[str], secret: str) -> None:
    masked = mask_arguments([part.format(secret) for part in shape])
    assert secret not in " ".join(masked)
    for part, result in zip(shape, masked, strict=True):
        assert result == part or "***" in result


@given(
    shape=st.sampled_from(
        (
            "ghp_{}", "gho_{}", "github_pat_{}", "xoxb-{}", "xoxp-{}", "sk_live_{}", "sk-{}", "hvs.{}",
            "glpat-{}", "pypi-{}", "npm_{}", "AIza{}", "hf_{}", "dckr_pat_{}", "whsec_{}", "tskey-{}",
        )
    ),
    body=st.text(string.ascii_letters + string.digits, min_size=36, max_size=60),
    around=st.sampled_from(("{}", "x {} y", "say={}", "'{}'", "https://host/{}/path")),
)  # fmt: skip
def test_a_well_known_token_never_survives_wherever_it_stands(shape: str, body: str, around: str) -> None:
    token = shape.format(body)
    assert body not in mask_text(around.format(token))


@given(st.tuples(BASE64URL, BASE64URL, BASE64URL), st.sampled_from(("{}", "a {} b", "x={}", '"{}"')))
def test_a_json_web_token_never_survives_whole_or_cut(parts: tuple[str, str, str], around: str) -> None:
    token = "eyJ" + ".".join(parts)
    for cut in (len(token), len(token) - len(parts[2]), len(parts[0]) + 3):
        masked = mask_text(around.format(token[:cut]))
        assert parts[0] not in masked
        assert cut < len(token) or parts[2] not in masked


@given(st.text(string.ascii_letters + string.digits + "+/\n", min_size=64, max_size=600))
def test_a_private_key_block_never_survives_whole_or_cut(body: str) -> None:
    block = (
        f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n{body}\n-----END RSA PRIVATE KEY-----"
    )
    assert mask_text(f"before {block} after") == "before *** after"
    assert body not in mask_text(block[:-10])


@given(st.from_regex(r"AKIA[A-Z2-7]{16}", fullmatch=True), st.sampled_from(("{}", "id={}", "a {} b")))
def test_an_aws_access_key_never_survives(key: str, around: str) -> None:
    assert key not in mask_text(around.format(key))


def test_an_aws_secret_key_is_known_by_its_disorder() -> None:
    assert mask_text("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY") == "***"


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls", "-la", "/usr/lib/x86_64-linux-gnu/security/pam_unix.so"],
        ["server", "--port=80", "--host", "0.0.0.0", "--workers=4"],
        ["git", "show", "da39a3ee5e6b4b0d3255bfef95601890afd80709", "--stat"],
        ["sha256sum", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],
        ["app", "--token-file=/run/secrets/token", "--password-file", "/etc/app/password"],
        ["app", "--auth-type=basic", "--auth-method", "oidc", "--secret-name=database"],
        ["llm", "--max-tokens=4096", "--tokenizer", "gpt2"],
        ["ssh", "-p", "22", "-i", "/home/bob/.ssh/id_ed25519", "bob@host"],
        ["docker", "run", "-p", "8080:80", "-v", "/run/secrets:/run/secrets:ro", "registry/auth:1.2"],
        ["curl", "-u", "bob", "https://host:8443/a/b?page=2&size=10"],
        ["mysql", "-p", "database"],
        ["python", "-m", "http.server", "8000", "--bind", "127.0.0.1"],
        ["python", "-c", "import this; print('a: b')"],
        ["sh", "-c", "for f in *.txt; do wc -l \"$f\"; done"],
        ["git", "log", "--author=Bob", "--format=%H %an"],
        ["app", "--no-auth", "main:app", "--authority=10.0.0.1:443"],
        ["cat", "/srv/Build7/Release/x86/Some2/Deep/path"],
        ["ping", "2001:db8::1"],
        ["uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"],
        ["/usr/sbin/sshd", "-D", "[listener] 0 of 10-100 startups"],
        [""],
        [],
    ],
    ids=" ".join,
)  # fmt: skip
def test_ordinary_arguments_stay_as_they_are(arguments: list[str]) -> None:
    assert mask_arguments(arguments) == arguments


@given(st.lists(st.text(max_size=200), max_size=20))
def test_any_arguments_can_be_masked_and_none_is_lost(arguments: list[str]) -> None:
    assert len(mask_arguments(arguments)) == len(arguments)


@given(st.lists(st.text(max_size=100), max_size=10))
def test_masking_twice_reveals_and_breaks_nothing(arguments: list[str]) -> None:
    once = mask_arguments(arguments)
    assert len(mask_arguments(once)) == len(once)


@pytest.mark.parametrize(
    "unit",
    ["a", "://", "://a:b", "password", "password=", '"', "'", '\\"', "eyJ", "-----BEGIN PRIVATE KEY-----",
     "--token ", "a:", "A1b/", "Bearer ", "=", "gh", "xox", " '", "aB", "SG.a", "hooks.slack.com/", "-"],
)  # fmt: skip
def test_hostile_text_takes_no_more_than_linear_time(unit: str) -> None:
    def cost(size: int) -> float:
        text = unit * (size // len(unit))
        start = time.process_time()
        mask_arguments(["app", text])
        return time.process_time() - start

    # Quadratic time would take minutes for a megabyte, linear time takes a second at most.
    assert cost(1_000_000) < 15


@pytest.mark.parametrize(
    "name", ["PGPASSWORD", "--dbPassword2", "x-api-key", "AWS_SECRET_ACCESS_KEY", "a.b.token"]
)
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["--author", "tokenizer", "PATH", "passenger", "compass", "key", "--keyboard", ""]
)
def test_names_that_only_look_like_it_are_not(name: str) -> None:
    assert not is_secret_name(name)
