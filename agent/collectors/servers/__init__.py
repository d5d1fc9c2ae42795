"""The collectors of the servers domain, one a data product."""

from agent.collectors import CollectorFactory
from agent.collectors.servers.accounts import Accounts
from agent.collectors.servers.agents import Agents
from agent.collectors.servers.collectors import Collectors
from agent.collectors.servers.connections import Connections
from agent.collectors.servers.cpu import Cpu
from agent.collectors.servers.disk_io import DiskIo
from agent.collectors.servers.disk_usage import DiskUsage
from agent.collectors.servers.inventory import Inventory
from agent.collectors.servers.listeners import Listeners
from agent.collectors.servers.logins import Logins
from agent.collectors.servers.memory import Memory
from agent.collectors.servers.network_io import NetworkIo
from agent.collectors.servers.process_starts import ProcessStarts
from agent.collectors.servers.units import Units

# They start in this order; the last tells how the others fare.
COLLECTORS: tuple[CollectorFactory, ...] = (
    Inventory,
    Cpu,
    Memory,
    DiskUsage,
    DiskIo,
    NetworkIo,
    Listeners,
    Accounts,
    Units,
    Logins,
    ProcessStarts,
    Connections,
    Agents,
    Collectors,
)
