// Package faulty is a decorator that makes a connector fail on purpose, in the manner of pebble's errorfs: an [Injector] is asked before and after
// every call, and an error that it gives is the call's. It is for tests of whatever stands above a connector: fail call 0, then call 1, and so on
// until the operation succeeds, and look each time for what was leaked or half done.
//
//	for n := int64(0); ; n++ {
//		at := faulty.OnIndex(n, faulty.ErrInjected)
//		c := faulty.Wrap(inner, at)
//		... // the operation; it must fail with ErrInjected if at.Fired()
//		if !at.Fired() {
//			break // n is past the operation's last call
//		}
//	}
//
// # What can fail
//
// A call can fail before it reaches the inner connector (nothing has happened), or after it has succeeded there ([LostAnswer]: the object is
// stored, but nobody learned its key). A stream can fail at a byte ([AtByte]): what came before has gone through.
//
// # Capabilities
//
// All of them, each passing to the inner connector, and errors.ErrUnsupported where that lacks it, without asking the Injector. There is no Unwrap:
// nothing gets around the layer. Config never fails.
//
// # Errors
//
// Injected errors come in an [connectors.OpError] of the inner connector's kind, as its own would, and match by errors.Is.
package faulty
