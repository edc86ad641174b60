# Defines duo::duo, which is all rooms in one archive, libduo.a, with the libraries that they need. Installs it with the
# files that `find_package(duo)` reads.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

get_property(rooms GLOBAL PROPERTY DUO_ROOMS)
set(objects)
set(libraries)
foreach(room IN LISTS rooms)
  list(APPEND objects $<TARGET_OBJECTS:duo_${room}>)
  get_target_property(room_libraries duo_${room} LINK_LIBRARIES)
  if(room_libraries)
    list(APPEND libraries ${room_libraries})
  endif()
endforeach()
list(FILTER libraries EXCLUDE REGEX "^duo_")
list(REMOVE_DUPLICATES libraries)

add_library(duo_library STATIC ${objects})
add_library(duo::duo ALIAS duo_library)
set_target_properties(duo_library PROPERTIES OUTPUT_NAME duo EXPORT_NAME duo LINKER_LANGUAGE CXX)
target_compile_features(duo_library PUBLIC cxx_std_20)
target_include_directories(duo_library PUBLIC
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
# Private: the public headers include only the standard library, so users only link these.
target_link_libraries(duo_library PRIVATE ${libraries})

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/duo)
install(TARGETS duo_library EXPORT duo-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT duo-targets NAMESPACE duo:: DESTINATION ${package_dir})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/duo DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(DIRECTORY ${PROJECT_SOURCE_DIR}/models/demo DESTINATION ${CMAKE_INSTALL_DATADIR}/duo)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
if(TARGET duo)
  install(TARGETS duo RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/duo-config.cmake.in
  ${PROJECT_BINARY_DIR}/duo-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/duo-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/duo-config.cmake ${PROJECT_BINARY_DIR}/duo-config-version.cmake
  DESTINATION ${package_dir})
