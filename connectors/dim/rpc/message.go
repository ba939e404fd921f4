package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/proxyplane/proxyplane/connectors"
	"github.com/proxyplane/proxyplane/serialize/pickle"
	"github.com/proxyplane/proxyplane/transport"
)

// Operations of a request.
const (
	OpExists = "exists"
	OpEvict  = "evict"
	OpGet    = "get"
	OpPut    = "put"
)

// models is where the classes are. Before proxystore-ex they were part of ProxyStore, under the second name. A response names the same as its
// request.
const (
	models    = "proxystore_ex.connectors.dim.models"
	oldModels = "proxystore.connectors.dim.models"
)

// limits of a message's structure. The object's bytes do not count where they alias the message, which is everywhere but in pickles of protocols
// before 3. An honest message has 40 values.
var limits = pickle.Limits{MaxDepth: 32, MaxValues: 1 << 10, MaxBytes: 1 << 20}

// Request is a decoded RPC.
type Request struct {
	Op   string
	Key  connectors.DIMKey
	Data *transport.Buffer // nil for None; else a view that the Request owns

	form form
}

// Release releases the data.
func (r *Request) Release() {
	r.Data.Release()
	r.Data = nil
}

// Response is a decoded RPCResponse.
type Response struct {
	Op     string
	Key    connectors.DIMKey
	Data   *transport.Buffer // nil for None; else a view that the Response owns
	Exists bool
	Err    error // the exception, a *ServerError; nil for None
}

// Release releases the data.
func (r *Response) Release() {
	r.Data.Release()
	r.Data = nil
}

// form is how a peer's ProxyStore writes messages, and the only one that it reads.
type form struct {
	tag06 bool // the tags are those of ProxyStore 0.6
	old   bool // the classes are in oldModels
}

// errTag is a message that does not even begin like one.
var errTag = fmt.Errorf("%w: the message has no tag of a pickled object", transport.ErrCorrupt)

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{transport.ErrCorrupt}, args...)...)
}

// DecodeRequest reads a request from a whole message, which it borrows; the Request's data holds a reference of its own. On error, which matches
// transport.ErrCorrupt, the Request says as much as could be read, and has no data.
func DecodeRequest(msg *transport.Buffer) (Request, error) {
	var r Request
	f, form, err := fields(msg, "RPC")
	if r.form = form; err != nil {
		return r, err
	}
	if r.Op, r.Key, err = head(f); err != nil {
		return r, err
	}
	r.Data, err = data(msg, f)
	return r, err
}

// DecodeResponse reads a response from a whole message, which it borrows; the Response's data holds a reference of its own. On error, which matches
// transport.ErrCorrupt, there is nothing to release. An exception in the response is no error here.
func DecodeResponse(msg *transport.Buffer) (Response, error) {
	var r Response
	f, _, err := fields(msg, "RPCResponse")
	if err != nil {
		return r, err
	}
	if exc, _ := f.GetString("exception"); exc != nil {
		r.Err = newServerError(exc)
		r.Op, r.Key, _ = head(f) // a server that could not read the request does not know them
		return r, nil
	}
	if r.Op, r.Key, err = head(f); err != nil {
		return r, err
	}
	if v, _ := f.GetString("exists"); v != nil {
		var ok bool
		if r.Exists, ok = v.(bool); !ok {
			return r, corrupt("exists of the RPCResponse is %T, not a bool", v)
		}
	}
	r.Data, err = data(msg, f)
	return r, err
}

// fields returns the attributes of the dataclass in a message.
func fields(msg *transport.Buffer, class string) (f *pickle.Dict, form form, err error) {
	raw := msg.Bytes()
	if len(raw) < 3 || raw[2] != '\n' {
		return nil, form, errTag
	}
	switch string(raw[:2]) {
	case "PK", "CP":
	case "03", "04":
		form.tag06 = true
	default:
		return nil, form, errTag
	}
	v, err := pickle.DecodeWith(raw[3:], limits)
	if err != nil {
		if errors.Is(err, pickle.ErrTooLarge) {
			err = fmt.Errorf("%w (is the data of an RPC an object other than bytes?)", err)
		}
		return nil, form, corrupt("%w", err)
	}
	obj, ok := v.(*pickle.Object)
	if !ok {
		return nil, form, corrupt("the message is %T, not an %s", v, class)
	}
	switch {
	case obj.Is(models, class):
	case obj.Is(oldModels, class):
		form.old = true
	default:
		g, _ := obj.Class()
		return nil, form, corrupt("the message is a %.100q, not an %s", g.String(), class)
	}
	if f, ok = obj.Fields(); !ok {
		return nil, form, corrupt("the %s has no attributes", class)
	}
	return f, form, nil
}

// head returns the operation and the key.
func head(f *pickle.Dict) (op string, key connectors.DIMKey, err error) {
	v, _ := f.GetString("operation")
	op, ok := v.(string)
	if !ok {
		return "", key, corrupt("the operation is %T, not a str", v)
	}
	v, _ = f.GetString("key")
	obj, ok := v.(*pickle.Object)
	if !ok || !obj.Is(models, "DIMKey") && !obj.Is(oldModels, "DIMKey") || len(obj.Args) != 5 {
		return op, key, corrupt("the key is no DIMKey of five fields")
	}
	a := obj.Args
	var is [5]bool
	key.DIMType, is[0] = a[0].(string)
	key.ObjID, is[1] = a[1].(string)
	key.Size, is[2] = integer(a[2])
	key.PeerHost, is[3] = a[3].(string)
	key.PeerPort, is[4] = integer(a[4])
	for i, ok := range is {
		if !ok {
			return op, connectors.DIMKey{}, corrupt("field %d of the DIMKey is %T", i, a[i])
		}
	}
	return op, key, nil
}

// integer reads an int, or one of numpy's, which keys out of tables have. To Python both are equal, so that an answer may have the first.
func integer(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case *pickle.Object:
		var n int64
		err := pickle.ConvertWith(v, &n, limits)
		return n, err == nil
	}
	return 0, false
}

// data returns the object as a view into the message; nil for None.
func data(msg *transport.Buffer, f *pickle.Dict) (*transport.Buffer, error) {
	v, _ := f.GetString("data")
	var raw []byte
	switch v := v.(type) {
	case nil:
		return nil, nil
	case []byte:
		raw = v
	case pickle.ByteArray:
		raw = v
	default:
		return nil, corrupt("%w: data is %T; objects are bytes, so serialize it first", errType, v)
	}
	if len(raw) == 0 {
		return transport.FromBytes(nil), nil
	}
	if view, ok := msg.View(raw); ok {
		return view, nil
	}
	return transport.FromBytes(raw), nil // bytes of protocols before 3 are computed: they lie elsewhere, and are the collector's
}

// Opcodes of pickle protocol 5 that messages are written with.
const (
	opMark, opStop, opNone, opTrue, opFalse      = '(', '.', 'N', "\x88", "\x89"
	opProto, opFrame                             = "\x80\x05", "\x95"
	opShortStr, opStr                            = '\x8c', 'X'
	opShortBytes, opBytes, opBytes8              = 'C', 'B', '\x8e'
	opInt1, opInt2, opInt4, opLong1              = 'K', 'M', 'J', '\x8a'
	opGlobal, opMemoize, opMemo0                 = "\x93", "\x94", "h\x00"
	opTuple, opTuple1, opEmptyTuple, opEmptyDict = 't', '\x85', ')', '}'
	opNewObj, opReduce, opSetItems, opBuild      = '\x81', 'R', 'u', 'b'
)

const (
	frameAt    = len("PK\n") + len(opProto) // where a message's first frame begins
	frameHead  = len(opFrame) + 8
	frameLimit = 64 << 10 // as CPython: larger bytes are not part of a frame
)

// EncodeRequest returns the message of an RPC. obj is its data; nil is None. It borrows obj for as long as the message lives, which has its parts
// between a head and a tail. Size and the strings of the key are sent as they are.
func EncodeRequest(op string, key connectors.DIMKey, obj transport.Slices) transport.Slices {
	b := begin("RPC", op, &key, form{})
	return finish(b, obj, obj != nil, nil)
}

// reply is an RPCResponse to be encoded.
type reply struct {
	op     string
	key    *connectors.DIMKey // nil is None
	form   form
	exists int8   // 0 is None, 1 True, -1 False
	class  string // of the exception, in builtins; "" is None
	text   string
}

// encode returns the message, with data between its head and its tail; has tells no bytes from None.
func (r *reply) encode(data []byte, has bool) transport.Slices {
	b := begin("RPCResponse", r.op, r.key, r.form)
	tail := make([]byte, 0, 64+len(r.class)+len(r.text))
	tail = appendStr(tail, "exists")
	switch r.exists {
	case 0:
		tail = append(tail, opNone)
	case 1:
		tail = append(tail, opTrue...)
	default:
		tail = append(tail, opFalse...)
	}
	tail = appendStr(tail, "exception")
	if r.class == "" {
		tail = append(tail, opNone)
	} else {
		tail = appendStr(tail, "builtins")
		tail = appendStr(tail, r.class)
		tail = append(tail, opGlobal...)
		tail = appendStr(tail, strings.ToValidUTF8(r.text, "\uFFFD"))
		tail = append(tail, opTuple1, opReduce)
	}
	return finish(b, transport.Slices{data}, has, tail)
}

// begin returns a message up to the value of data: its tag, the head of a frame whose length is not known yet, and the object half made.
func begin(class, op string, key *connectors.DIMKey, form form) []byte {
	tag, module := "PK\n", models
	if form.tag06 {
		tag = "03\n"
	}
	if form.old {
		module = oldModels
	}
	n := 160 + len(op)
	if key != nil {
		n += len(key.DIMType) + len(key.ObjID) + len(key.PeerHost)
	}
	b := make([]byte, 0, n)
	b = append(append(b, tag...), opProto+opFrame+"\x00\x00\x00\x00\x00\x00\x00\x00"...)
	b = appendStr(b, module)
	b = append(b, opMemoize...)
	b = appendStr(b, class)
	b = append(b, opGlobal...)
	b = append(b, opEmptyTuple, opNewObj, opEmptyDict, opMark)
	b = appendStr(b, "operation")
	b = appendStr(b, op)
	b = appendStr(b, "key")
	if key == nil {
		b = append(b, opNone)
	} else {
		b = append(b, opMemo0...)
		b = appendStr(b, "DIMKey")
		b = append(b, opGlobal...)
		b = append(b, opMark)
		b = appendStr(b, key.DIMType)
		b = appendStr(b, key.ObjID)
		b = appendInt(b, key.Size)
		b = appendStr(b, key.PeerHost)
		b = appendInt(b, key.PeerPort)
		b = append(b, opTuple, opNewObj)
	}
	return appendStr(b, "data")
}

// finish appends the value of data, further attributes, and the end. Bytes that are larger than a frame stand between two.
func finish(head []byte, data transport.Slices, has bool, more []byte) transport.Slices {
	tail := more
	tail = append(tail, opSetItems, opBuild, opStop)
	if !has {
		head = append(append(head, opNone), tail...)
		setFrame(head, len(head)-frameAt-frameHead)
		return transport.Slices{head}
	}
	n := data.Len()
	large := n > frameLimit
	if large {
		setFrame(head, len(head)-frameAt-frameHead)
	}
	switch {
	case n <= math.MaxUint8:
		head = append(head, opShortBytes, byte(n))
	case n <= math.MaxUint32:
		head = binary.LittleEndian.AppendUint32(append(head, opBytes), uint32(n))
	default:
		head = binary.LittleEndian.AppendUint64(append(head, opBytes8), uint64(n))
	}
	if !large {
		setFrame(head, len(head)-frameAt-frameHead+int(n)+len(tail))
	}
	msg := make(transport.Slices, 0, len(data)+2)
	msg = append(msg, head)
	for _, p := range data {
		if len(p) > 0 {
			msg = append(msg, p)
		}
	}
	return append(msg, tail)
}

func setFrame(msg []byte, n int) {
	binary.LittleEndian.PutUint64(msg[frameAt+len(opFrame):], uint64(n))
}

func appendStr(b []byte, s string) []byte {
	if len(s) <= math.MaxUint8 {
		return append(append(b, opShortStr, byte(len(s))), s...)
	}
	return append(binary.LittleEndian.AppendUint32(append(b, opStr), uint32(len(s))), s...)
}

func appendInt(b []byte, n int64) []byte {
	switch {
	case n >= 0 && n <= math.MaxUint8:
		return append(b, opInt1, byte(n))
	case n >= 0 && n <= math.MaxUint16:
		return binary.LittleEndian.AppendUint16(append(b, opInt2), uint16(n))
	case n >= math.MinInt32 && n <= math.MaxInt32:
		return binary.LittleEndian.AppendUint32(append(b, opInt4), uint32(n))
	}
	return binary.LittleEndian.AppendUint64(append(b, opLong1, 8), uint64(n))
}

// checkID reports what is wrong with an id that is to be an obj_id.
func checkID(id string, limit int) error {
	switch {
	case id == "" || len(id) > limit:
		return fmt.Errorf("%w: an object's id has 1 to %d bytes, this one %d", transport.ErrInvalidKey, limit, len(id))
	case !utf8.ValidString(id):
		return fmt.Errorf("%w: the object's id is no UTF-8, which Python's servers need", transport.ErrInvalidKey)
	}
	return nil
}
