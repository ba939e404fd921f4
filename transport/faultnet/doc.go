// Package faultnet makes networks fail on purpose, so that tests can show what a program does then: connections that are slow, that
// stall, that are cut at the worst byte, that flip bits. Use it for your own tests too.
//
// [Wrap] and [WrapListener] put faults into a net.Conn of this process. [NewProxy] puts them between two programs that know nothing of it: it listens
// on loopback or a unix socket and forwards to a target, whatever the language or library on both sides.
//
// What goes wrong is a [Plan], seeded: the same plan over the same bytes does the same again, however the bytes are cut into calls. Plans can be
// changed while connections are open. All waiting is done by timers, so that it costs no time inside testing/synctest.
package faultnet
