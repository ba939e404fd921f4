package serialize

import (
	"fmt"
	"io"
	"sync"

	"github.com/proxyplane/proxyplane/serialize/pickle"
	"github.com/proxyplane/proxyplane/transport"
)

// Opaque is an object that is not taken apart: a pandas or polars DataFrame, or a pickle of an unknown class. It can be looked at, and stored
// again unchanged. It holds a reference on the object's memory: Release it when done. Its methods may be called by many goroutines at once.
type Opaque struct {
	tag   string
	body  *transport.Buffer // a view of the payload
	once  sync.Once
	class string
}

// NewOpaque returns an object of a tag from its payload. It takes body. Encode writes it as it is, so both must be right.
func NewOpaque(tag string, body *transport.Buffer) *Opaque { return &Opaque{tag: tag, body: body} }

// Tag returns the two letters that say how the object was made.
func (o *Opaque) Tag() string { return o.tag }

// Payload lends what follows the tag, until Release. It is read-only.
func (o *Opaque) Payload() []byte { return o.body.Bytes() }

// Release drops the reference on the object's memory. Of nil it does nothing.
func (o *Opaque) Release() {
	if o != nil {
		o.body.Release()
	}
}

// UnmarshalPickle fails: an Opaque is an object as a whole, never a part of one.
func (o *Opaque) UnmarshalPickle(any) error {
	return fmt.Errorf("serialize: %w: part of a pickle is no Opaque", ErrType)
}

// Structure returns the pickled object as a value of package pickle, without running anything. Bytes in it are lent until Release. It fails
// with ErrType if the payload is no pickle, and with ErrCorrupt or ErrTooLarge if it cannot be read.
func (o *Opaque) Structure() (any, error) {
	if !isPickleTag(o.tag) {
		return nil, fmt.Errorf("serialize: %w: the payload of a %s object is no pickle", ErrType, o.tag)
	}
	v, err := pickle.Decode(o.body.Bytes())
	if err != nil {
		return nil, wrapPickle(o.tag+" object", err)
	}
	return v, nil
}

// Dump writes the structure of a pickled object for people to read.
func (o *Opaque) Dump(w io.Writer) error {
	v, err := o.Structure()
	if err != nil {
		return err
	}
	return pickle.Dump(w, v)
}

// Class returns the name of the Python class, such as "pandas.DataFrame"; empty if the object does not say.
func (o *Opaque) Class() string {
	o.once.Do(func() {
		if o.class != "" {
			return
		}
		if v, err := o.Structure(); err == nil {
			o.class = className(v)
		}
		if o.class == "" {
			o.class = map[string]string{TagPandas: "pandas.DataFrame", TagPolars: "polars.DataFrame", TagNumPy: "numpy.ndarray"}[o.tag]
		}
	})
	return o.class
}

// className returns the class of a structural value, by its public name where that is known to differ.
func className(v any) string {
	o, ok := v.(*pickle.Object)
	if !ok {
		return ""
	}
	g, _ := o.Class()
	switch g.Module {
	case "":
		return ""
	case "pandas.core.frame", "pandas.core.series":
		return "pandas." + g.Name
	case "polars.dataframe.frame", "polars.series.series":
		return "polars." + g.Name
	}
	return fmt.Sprintf("%.100s.%.100s", g.Module, g.Name) // a hostile one may be a megabyte
}

// String describes the object without its content.
func (o *Opaque) String() string {
	if o == nil {
		return "<nil>"
	}
	class := o.Class()
	if class == "" {
		class = "object"
	}
	return fmt.Sprintf("%s (%s, %d bytes)", class, o.tag, o.body.Len())
}
