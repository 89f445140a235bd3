"""What the fault tests stand on: a proxy that breaks the wire, a ledger of what happened, a service under test."""
