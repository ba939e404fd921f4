// Package netlab makes networks for tests: sites that are Linux network namespaces, joined by a link with delay, rate, queue, loss and NAT, so that two
// endpoints on one machine see each other as if they were far apart. It needs Linux, CAP_NET_ADMIN and CAP_SYS_ADMIN (root), /dev/net/tun, and the
// programs ip (iproute2) and nsenter (util-linux); testenv.Netns tells whether they are there. It does not need tc or sch_netem: the link is a program.
//
// # How it works
//
// Each site is a namespace with one TUN device, whose packets a process of its own (the emulator) reads, holds for as long as the link would, and
// writes into the device of the site they are for. Devices have segmentation offload on (IFF_VNET_HDR, TUNSETOFFLOAD), so that TCP's and QUIC's large
// packets stay whole: about 10 Gbit/s of TCP for part of a core. With loss they are off, since a loss must hit one packet of 1500 bytes and not
// forty at once. An address that no site has is answered with ICMP "network unreachable".
//
// The emulator is this program again: importing the package makes a process that finds PROXYPLANE_NETLAB in its environment the emulator, and nothing
// else, before main begins. Namespaces have no names: they end with the emulator, and that ends when its standard input does, so that nothing is left
// whatever happens to the test, nor can two runs meet.
//
// # NAT
//
// A site behind NAT has an address of its own (Site.Inner) and leaves by Site.Addr. TCP, UDP and ICMP echo are translated, by the rules of RFC 4787
// and 5382: mapping independent of the destination (or not: Symmetric), filtering as the NAT type says. Fragments do not pass.
package netlab
