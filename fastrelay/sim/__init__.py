"""An internet in a box: DNS, MX hosts and campaigns, all on loopback.

``dns``       an authoritative server whose zone is built in Python and whose failures are scripted
``mx``        MX hosts that are quick and keep an exact account of what they took
``account``   that account, and the verdict "each message exactly once, unaltered"
``faults``    one MX host that plays a named fault, a row of the fault table each
``internet``  twelve providers, their MX hosts and any number of domains, as a zone
``campaign``  thirty newsletters and the recipients they go to
``submit``    hands a campaign to a relay over SMTP, pipelined, on many connections

``python -m fastrelay.sim`` runs DNS and MX hosts as a child process (see ``__main__``).
Nothing here is used by a relay that does real work.
"""
