"""Information elements of NetFlow v9 and IPFIX by number, and the fields of a flow that they become.

Numbers below 128 mean the same in both. Where several tell the same, the first that a template has is taken.
"""

# An element: enterprise and number. Enterprise 0 is IANA's own; REVERSE marks the way back (RFC 5103).
Element = tuple[int, int]
REVERSE = 29305

NUMBERS: dict[str, tuple[Element, ...]] = {
    "source_port": ((0, 7), (0, 180), (0, 182)),
    "destination_port": ((0, 11), (0, 181), (0, 183)),
    "protocol": ((0, 4),),
    "total_bytes": ((0, 1), (0, 85), (0, 231), (0, 23)),
    "total_packets": ((0, 2), (0, 86), (0, 298), (0, 24)),
    "reverse_bytes": ((0, 232), (REVERSE, 1), (REVERSE, 85)),
    "reverse_packets": ((0, 299), (REVERSE, 2), (REVERSE, 86)),
    "tcp_flags": ((0, 6),),
    "icmp_type_code": ((0, 32), (0, 139)),
    "type_of_service": ((0, 5),),
    "vlan": ((0, 58), (0, 243)),
    "end": ((0, 136),),
    "state": ((0, 233),),
    "translated_source_port": ((0, 227),),
    "translated_destination_port": ((0, 228),),
    "input_interface": ((0, 10),),
    "output_interface": ((0, 14),),
    "source_as": ((0, 16),),
    "destination_as": ((0, 17),),
}
# IPv4 before IPv6: where a template has both, the one that is not all zeros is meant.
ADDRESSES: dict[str, tuple[Element, Element]] = {
    "source_address": ((0, 8), (0, 27)),
    "destination_address": ((0, 12), (0, 28)),
    "translated_source_address": ((0, 225), (0, 281)),
    "translated_destination_address": ((0, 226), (0, 282)),
    "next_hop_address": ((0, 15), (0, 62)),
}
SECONDS, MILLISECONDS, NTP, BEFORE_EXPORT, UPTIME = "s", "ms", "ntp", "us before export", "ms of uptime"
# The last packet, and the first.
TIMES: dict[str, tuple[tuple[Element, str], ...]] = {
    "time": (
        ((0, 153), MILLISECONDS),
        ((0, 151), SECONDS),
        ((0, 155), NTP),
        ((0, 157), NTP),
        ((0, 159), BEFORE_EXPORT),
        ((0, 21), UPTIME),
        ((0, 323), MILLISECONDS),
    ),
    "start_time": (
        ((0, 152), MILLISECONDS),
        ((0, 150), SECONDS),
        ((0, 154), NTP),
        ((0, 156), NTP),
        ((0, 158), BEFORE_EXPORT),
        ((0, 22), UPTIME),
    ),
}
# When the device started, in milliseconds since 1970: what uptimes count from in IPFIX.
SYSTEM_START = (0, 160)
SAMPLER = ((0, 48), (0, 302))
# One of how many packets; with the second of the pair, so many of so many more.
INTERVAL = ((0, 34), (0, 50), (0, 305))
SPACE = (0, 306)

# What firewalls call their events (element 233), as states of a flow: created, deleted, denied, updated.
FIREWALL_STATES = {1: 3, 2: 4, 3: 2, 5: 3}
LAST_END = 5
