"""What the tests of pools share."""

from mpim_lab.lab.faults.server_admin import controlling
from mpim_lab.mq.connection.retry import Backoff

QUICK = {
    "backoff": Backoff(initial_s=0.01, max_s=0.02),
    "connect_timeout_s": 2.0,
    "acquire_timeout_s": 10.0,
}


async def connections(url, name="pool"):
    """How many connections of that name the server has."""
    async with controlling(url) as link:
        listed = bytes(await link.call("CLIENT", "LIST")).decode()
    return sum(f" name={name} " in line for line in listed.splitlines())


async def borrow(pool, order, name, until):
    """Take a connection, say so, keep it until told; gives what the server echoes."""
    async with pool.connection() as connection:
        order.append(name)
        await until.wait()
        return await connection.call("ECHO", name)


def kept(figures):
    """What must hold whenever nobody has a connection: none is lost, none is counted twice."""
    return figures.in_use == 0 and figures.opened - sum(figures.closed.values()) == figures.idle
