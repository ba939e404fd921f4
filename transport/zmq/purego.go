//go:build !cgo || !zmq

package zmq

// This file is the seam of build tag zmq. Its counterpart, libzmq.go (//go:build cgo && zmq), declares the same two variables as listenFunc and
// connectFunc over libzmq. All else has no tag: listenPure and connectPure stay in the program with the tag too, so that tests run one against the
// other by putting listenPure or connectPure into ListenOptions.listen and DialOptions.connect.
var (
	defaultListen  listenFunc  = listenPure
	defaultConnect connectFunc = connectPure
)
