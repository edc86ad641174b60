# Writes OUT, a C++ source with the bytes of FILES: cmake -DOUT=... "-DFILES=a;b" -P embed_web_files.cmake
set(arrays)
set(table)
set(index 0)
foreach(file IN LISTS FILES)
  get_filename_component(name ${file} NAME)
  file(READ ${file} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(APPEND arrays "const unsigned char kFile${index}[] = {${bytes}0};\n")
  string(APPEND table "    {\"${name}\", {reinterpret_cast<const char*>(kFile${index}), sizeof kFile${index} - 1}},\n")
  math(EXPR index "${index} + 1")
endforeach()
file(WRITE ${OUT}.new "#include \"server/web_files.h\"

namespace duo {
namespace {

${arrays}
const WebFile kFiles[] = {
${table}};

}  // namespace

std::span<const WebFile> WebFiles() { return kFiles; }

}  // namespace duo
")
file(RENAME ${OUT}.new ${OUT})
