"""The inventories: their parsers against captured text, their collectors against another source of truth."""

import grp
import os
import pwd
import socket
from pathlib import Path

import psutil
import pytest

from agent.collectors import CannotCollect, Host
from agent.collectors.servers import accounts, inventory, listeners
from agent.collectors.servers.collectors import Collectors
from agent.host.listener_owners import ListenerOwners
from agent.host.local_accounts import AccountNames, parse_group, parse_passwd
from agent.status import AgentStatus, CollectorStatus, State
from telltale.api.servers.v1.accounts_pb2 import PASSWORD_EMPTY, PASSWORD_LOCKED, PASSWORD_SET
from telltale.api.servers.v1.collectors_pb2 import COLLECTOR_STATE_UNAVAILABLE

FIXTURES = Path(__file__).parent.parent / "fixtures"


def text(name: str) -> str:
    return (FIXTURES / name).read_text()


# ---- inventory ----


def test_an_os_release_is_read_as_a_shell_would() -> None:
    release = inventory.parse_os_release(text("etc/os-release"))
    assert release["NAME"] == "Debian GNU/Linux"
    assert release["VERSION_ID"] == "12"
    assert release["HOME_URL"] == "https://www.debian.org/"


@pytest.mark.parametrize(("listed", "count"), [("0\n", 1), ("0-3\n", 4), ("0-1,4,6-7\n", 5)])
def test_processors_that_are_online_are_counted(listed: str, count: int) -> None:
    assert inventory.parse_cpu_list(listed) == count


def test_this_host_is_what_the_system_says() -> None:
    (record,) = inventory.Inventory(Host()).collect()
    uname = os.uname()
    assert (record.host_name, record.kernel_release, record.architecture) == (
        uname.nodename,
        uname.release,
        uname.machine,
    )
    assert record.memory_bytes == psutil.virtual_memory().total
    assert record.cpu_count == psutil.cpu_count()
    assert abs(record.boot_time.seconds - psutil.boot_time()) <= 1
    assert record.agent_version
    assert not any(address.startswith(("127.", "::1", "fe80")) for address in record.addresses)


def test_a_clock_that_is_set_by_a_second_does_not_change_the_boot(tmp_path: Path) -> None:
    real = Host()
    for name in ("cpuinfo", "meminfo"):
        (tmp_path / name).write_text((real.proc / name).read_text())
    collector = inventory.Inventory(Host(proc=tmp_path))
    seen = []
    for boot in (1795436934, 1795436935, 1795440000):
        (tmp_path / "stat").write_text(f"cpu  1 2 3 4\nbtime {boot}\n")
        (record,) = collector.collect()
        seen.append(record.boot_time.seconds)
    assert seen == [1795436934, 1795436934, 1795440000]


# ---- accounts ----


def test_compatibility_marks_are_no_accounts() -> None:
    assert [account.name for account in parse_passwd(text("etc/passwd"))] == ["root", "daemon", "ada", "toor"]


def test_groups_hold_the_first_one_and_the_memberships() -> None:
    groups = accounts.groups_of(list(parse_passwd(text("etc/passwd"))), parse_group(text("etc/group")))
    assert groups["ada"] == ["ada", "adm", "sudo"]
    assert groups["toor"] == ["root"]


def test_accounts_are_told_without_anything_of_their_passwords() -> None:
    records = {record.account: record for record in accounts.Accounts(Host(etc=FIXTURES / "etc")).collect()}
    ada = records["ada"]
    assert (ada.password, records["root"].password) == (PASSWORD_SET, PASSWORD_LOCKED)
    assert records["toor"].password == PASSWORD_EMPTY
    assert not records["toor"].HasField("password_changed_time")
    assert (ada.password_changed_time.seconds, ada.expire_time.seconds) == (20100 * 86400, 20500 * 86400)
    assert (ada.can_log_in, records["daemon"].can_log_in) == (True, False)
    assert not any("$y$" in str(record) for record in records.values())


def test_an_unreadable_shadow_file_is_told_and_hides_no_account(tmp_path: Path) -> None:
    for name in ("passwd", "group"):
        (tmp_path / name).write_text(text(f"etc/{name}"))
    collector = accounts.Accounts(Host(etc=tmp_path))
    assert len(list(collector.collect())) == 4
    assert (
        collector.limited
        == f"{tmp_path}/shadow: no such file or directory; whether accounts have passwords is unknown"
    )


def test_the_accounts_of_this_machine_are_those_of_its_files() -> None:
    records = {record.account: record for record in accounts.Accounts(Host()).collect()}
    local = {line.partition(":")[0] for line in Path("/etc/passwd").read_text().splitlines()}
    assert records.keys() == local
    for name, record in records.items():
        seen = pwd.getpwnam(name)
        assert (record.account_id, record.home, record.shell) == (seen.pw_uid, seen.pw_dir, seen.pw_shell)
        assert grp.getgrgid(seen.pw_gid).gr_name in record.groups


def test_a_number_without_account_is_its_own_name() -> None:
    name = AccountNames(FIXTURES / "etc")
    assert (name(1000), name(0), name(4242)) == ("ada", "root", "4242")


# ---- listeners ----


@pytest.mark.skipif("sys.byteorder != 'little'", reason="the capture is from a little-endian machine")
def test_addresses_are_read_in_the_order_of_the_machine() -> None:
    assert listeners.parse_address("0100007F:1F90") == ("127.0.0.1", 8080)
    assert listeners.parse_address("B80D0120000000000000000001000000:0035") == ("2001:db8::1", 53)
    # IPv4 on a socket of both families, as servers.connections shows it too.
    assert listeners.parse_address("0000000000000000FFFF00000100007F:1F90") == ("127.0.0.1", 8080)


def test_only_sockets_that_take_what_comes_are_listeners() -> None:
    tcp = list(listeners.parse_sockets("tcp", text("proc/net_tcp").splitlines()))
    assert [(one.port, one.account_id, one.inode) for one in tcp] == [(8080, 112, 31337), (22, 0, 1678)]
    udp = list(listeners.parse_sockets("udp", text("proc/net_udp6").splitlines()))
    assert [(one.port, one.inode) for one in udp] == [(53, 777)]


def test_the_ports_of_this_process_are_listeners_until_they_close() -> None:
    collector = listeners.Listeners(Host())

    def own() -> set[tuple[str, str, int]]:
        return {
            (record.transport, record.address, record.port)
            for record in collector.collect()
            if record.process_id == os.getpid()
        }

    before = own()
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        with socket.create_connection(tcp.getsockname()):
            expected = {("tcp", *tcp.getsockname()), ("udp", *udp.getsockname())}
            assert own() - before == expected
    assert own() == before


def test_a_listener_names_program_and_account() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        records = listeners.Listeners(Host()).collect()
        (record,) = [one for one in records if one.port == server.getsockname()[1] and one.transport == "tcp"]
    process = psutil.Process()
    assert (record.process_id, record.process) == (process.pid, Path("/proc/self/comm").read_text().strip())
    assert record.executable == os.readlink("/proc/self/exe")
    assert record.account == process.username()


def test_owners_are_searched_for_only_when_a_socket_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    owners = ListenerOwners(Path("/proc"))
    search = owners._search
    monkeypatch.setattr(owners, "_search", lambda inodes: searches.append(inodes) or search(inodes))
    with socket.create_server(("127.0.0.1", 0)) as server:
        inode = os.fstat(server.fileno()).st_ino
        for _ in range(3):
            assert owners.find({inode})[inode].process_id == os.getpid()
        # A socket that nobody holds is not searched for again either.
        for _ in range(3):
            owners.find({inode, 2**40})
    assert searches == [{inode}, {2**40}]


# ---- collectors ----


def test_what_a_host_denies_is_data() -> None:
    status = CollectorStatus(
        "servers.units", 60.0, State.UNAVAILABLE, "no systemd", 1_795_436_934_000_000_000, 0.1, 1, 0, 0, 0
    )
    (record,) = Collectors(Host(agent=AgentStatus(collectors={status.product: status}))).collect()
    assert (record.product, record.reason) == ("servers.units", "no systemd")
    assert record.state == COLLECTOR_STATE_UNAVAILABLE
    assert record.state_since.seconds == 1_795_436_934


def test_a_host_without_account_files_cannot_tell_accounts(tmp_path: Path) -> None:
    with pytest.raises(CannotCollect, match="no local accounts"):
        list(accounts.Accounts(Host(etc=tmp_path)).collect())
