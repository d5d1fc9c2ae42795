"""Which tools take secrets by flags whose names do not tell: a table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tool:
    """How a tool takes secrets."""

    # Flags with the secret attached: `-psecret`.
    attached: tuple[str, ...] = ()
    # Flags with the secret in the next argument: `-p secret`.
    separate: frozenset[str] = frozenset()
    # Those of either that take `name:secret`.
    userinfo: frozenset[str] = frozenset()

    def attached_flag(self, word: str) -> str:
        """The flag that a word begins with when more is attached to it; empty otherwise."""
        return next((flag for flag in self.attached if word.startswith(flag) and word != flag), "")


def _tool(attached: str = "", separate: str = "", userinfo: str = "") -> Tool:
    return Tool(tuple(attached.split()), frozenset(separate.split()), frozenset(userinfo.split()))


def _all(names: str, tool: Tool) -> dict[str, Tool]:
    return dict.fromkeys(names.split(), tool)


NO_TOOL = Tool()

# By the name of the program, or of its subcommand where the flag means something else to the others.
TOOLS: dict[str, Tool] = {
    # With a blank, `-p` of these asks for the password and the next argument is the database.
    **_all("mysql mysqldump mysqladmin mysqlimport mysqlshow mysqlcheck mysqlbinlog mysqlslap", _tool("-p")),
    **_all("mariadb mariadb-dump mariadb-admin mariadb-backup xtrabackup mydumper myloader", _tool("-p")),
    **_all("sshpass mongo mongosh mongodump mongorestore 7z 7za 7zr rar unrar", _tool("-p", "-p")),
    "login": _tool("", "-p"),
    **_all("sqlcmd bcp zip unzip zipcloak ipmitool mosquitto_pub mosquitto_sub tsql", _tool("-P", "-P")),
    "curl": _tool("-u -U", "-b --cookie", "-u --user -U --proxy-user"),
    "lftp": _tool("-u", "", "-u --user"),
    **_all("smbclient rpcclient", _tool("-U", "", "-U --user")),
    **_all("http https", _tool("-a", "", "-a --auth")),
    "ab": _tool("-A -P", "", "-A -P"),
    "redis-cli": _tool("-a", "-a"),
    **_all("ldapsearch ldapmodify ldapadd ldapdelete ldapwhoami ldapcompare", _tool("-w", "-w")),
    "ldappasswd": _tool("-w -s -a", "-w -s -a"),
    "openssl": _tool("", "-passin -passout -pass -k -K"),
    **_all("keytool jarsigner", _tool("", "-storepass -keypass -srcstorepass -deststorepass -srckeypass")),
    **_all("snmpwalk snmpget snmpset snmpbulkwalk", _tool("-c -A -X", "-c -A -X")),
    "xfreerdp": _tool("/p:"),
    **_all("rdesktop usermod useradd", _tool("-p", "-p")),
    # Tools that others start, whose flags of the same names are harmless.
    **_all("ssh scp sftp rsync git psql", NO_TOOL),
}
