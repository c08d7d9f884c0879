/** pcp.conf.sample and pool_hba.conf.sample. */

export const pcpConfSample = `# pcp.conf
#
# Who may use the PCP commands (pcp_node_info, pcp_attach_node, ...). One line a user:
#
#   user:hash
#
# The hash is the MD5 of the password in 32 lower-case hexadecimal digits, as "pg_md5 PASSWORD"
# prints it. A line that begins with # is a comment; blanks count, so write none.
#
# postgres:e8a48653851e28c69d0506508fb27fc5
`;

export const poolHbaConfSample = `# pool_hba.conf
#
# Who may connect to pgpool, and how they prove who they are. Read when enable_pool_hba is on, at the
# start and at a reload. The first line that fits decides; without one a client is turned away.
#
#   local      DATABASE  USER  METHOD  [OPTIONS]
#   host       DATABASE  USER  ADDRESS  METHOD  [OPTIONS]
#   hostssl    DATABASE  USER  ADDRESS  METHOD  [OPTIONS]
#   hostnossl  DATABASE  USER  ADDRESS  METHOD  [OPTIONS]
#
# "local" is the Unix sockets; "host" is TCP with TLS or without, the other two only one of them.
#
# DATABASE is all, sameuser, a name, or several with commas. USER is all, a name, or several.
# @FILE reads names from a file beside this one. A name in double quotes is never a keyword.
#
# ADDRESS is all, samehost, samenet, a host name, .a.domain, an address with its number of bits as
# in 192.168.0.0/16, or an address and a mask in two fields.
#
# METHOD is one of
#   trust           anyone may be anyone
#   reject          nobody
#   scram-sha-256   a password, proved without sending it; pool_passwd must hold it
#   md5             likewise, the older way
#   password        a password in clear text; use it with hostssl only
#   cert            a client certificate whose name is the user's; with hostssl
#   pam, ldap       a password that another service judges
#
# TYPE  DATABASE    USER        ADDRESS             METHOD

local   all         all                             trust
host    all         all         127.0.0.1/32        trust
host    all         all         ::1/128             trust
`;
