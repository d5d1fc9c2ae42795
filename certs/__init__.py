"""The authority of a trust domain: its issuing certificate, enrolment, renewal and tokens."""
