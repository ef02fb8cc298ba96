# The real liblzo2 as a filter, for comparison in tests.
#
# stdin:  a sequence of requests; kind (1 byte: "1" compress LZO1X-1, "9" compress LZO1X-999, "d" decompress),
#         length of the data u32, capacity of the output u32, data
# stdout: an answer each; status of the library i32, length u32, data (none unless the status is 0)
import ctypes
import struct
import sys

lib = ctypes.CDLL("liblzo2.so.2")
work = ctypes.create_string_buffer(1 << 20)
calls = {
    b"1": (lib.lzo1x_1_compress, work),
    b"9": (lib.lzo1x_999_compress, work),
    b"d": (lib.lzo1x_decompress_safe, None),
}
source = sys.stdin.buffer
while True:
    head = source.read(9)
    if len(head) < 9:
        break
    kind, length, capacity = struct.unpack("<cII", head)
    data = source.read(length)
    output = ctypes.create_string_buffer(max(1, capacity))
    size = ctypes.c_size_t(capacity)
    call, memory = calls[kind]
    call.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    status = call(data, length, output, ctypes.byref(size), memory)
    made = ctypes.string_at(output, size.value) if status == 0 else b""
    sys.stdout.buffer.write(struct.pack("<iI", status, len(made)) + made)
