package native

// Refuse tells a client that has just connected why it gets no session, for servers that have no room for one. It borrows c.
func Refuse(c Carrier, status Status, text string) error {
	s := handshaker{c: c}
	return s.write(TypeError, uint16(status), appendText(nil, tagText, text, maxText))
}
